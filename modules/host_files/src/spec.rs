//! The options of `host_files` and `host_files_info`, and what they return. `options.rs` makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const FILE: &[Opt] = &[
    Opt::new("path", Kind::Str)
        .required()
        .about(&["Where it is: a path below O(dest), or an absolute one without O(dest). Folders on the way are made (0755)."]),
    Opt::new("state", Kind::Str)
        .default(Default::Str("file"))
        .choices(&["file", "directory", "link", "absent"])
        .about(&[
            "V(file) has what O(files[].content), O(files[].secret_content), O(files[].lines) or O(files[].src) says: exactly one of them.",
            "V(link) is a symbolic link that leads to O(files[].target). What is no link is never replaced by one.",
            "V(absent) is not there: a file, a link, or a folder that is empty. A folder with something in it is refused.",
        ]),
    Opt::new("content", Kind::Str).about(&["What is in the file. C(--diff) shows it."]),
    Opt::new("secret_content", Kind::Str).secret().about(&["The same, but it is not shown."]),
    Opt::new("lines", Kind::List).elements(Kind::Str).about(&[
        "Lines that the file must have; those that are missing are added to its end, all others stay.",
    ]),
    Opt::new("src", Kind::AbsolutePath).about(&[
        "The file of the target that is copied, or a folder with all that is in it. Its permissions are kept, its owner is not.",
    ]),
    Opt::new("target", Kind::Str).about(&["For O(files[].state=link): where the link leads, to the letter."]),
    Opt::new("mode", Kind::Str).about(&[
        "Permissions, in octal and quoted. The default is those of the source, of a folder those that it has (V(0755) of a new one), V(0600) with O(files[].secret_content), else V(0644).",
    ]),
    Opt::new("owner", Kind::Str).about(&[
        "Whose it is: a name in F(/etc/passwd), or a number. The default is whose it was, and the executing user of what is new.",
    ]),
    Opt::new("group", Kind::Str).about(&["The same of its group, in F(/etc/group)."]),
    Opt::new("replace", Kind::Bool).default(Default::Bool(true)).about(&[
        "Whether a file that is there is replaced. With V(false) it stays as it is, whatever its content is.",
    ]),
    Opt::new("validate", Kind::List).elements(Kind::Str).about(&[
        "A program and its arguments, which must end with 0 before the file is replaced. C(%s) stands for the path of a copy that only root can read.",
        "No shell. Not in check mode.",
    ]),
];

const UNIT: &[Opt] = &[
    Opt::new("name", Kind::List).elements(Kind::Str).required().about(&["One unit, or several. Without a suffix it is a service."]),
    Opt::new("enabled", Kind::Bool).about(&["Whether it starts with the machine."]),
    Opt::new("state", Kind::Str)
        .choices(&["started", "stopped", "restarted", "reloaded"])
        .about(&[
            "V(started) starts what does not run, V(stopped) ends what does. V(restarted) always does it again, V(reloaded) as well, and starts what does not run.",
            "A unit that is not there is stopped and disabled already.",
        ]),
];

const RUN: &[Opt] = &[
    Opt::new("dest", Kind::AbsolutePath)
        .about(&["The folder that the paths of O(files) are below. It is made where it is missing (0755)."]),
    Opt::new("files", Kind::List)
        .elements(Kind::Dict)
        .options(FILE)
        .default(Default::List(&[]))
        .about(&["Files, folders and links. Of two for one path the later one counts."]),
    Opt::new("variables", Kind::Dict).secret().about(&[
        "Variables, by name. Each becomes a line of O(variables_file), in place of the last line that sets it; all others stay. They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
    Opt::new("variables_file", Kind::Str).default(Default::Str(".env")).about(&[
        "Where the variables go: a path below O(dest). The file has the mode 0600 then, and keeps its owner. It may be one of O(files).",
    ]),
    Opt::new("units", Kind::List)
        .elements(Kind::Dict)
        .options(UNIT)
        .default(Default::List(&[]))
        .about(&[
            "Units of systemd, after the files. What is to be done to several is done by one call, so that they end and start side by side.",
            "systemd reads its files again only when one of them is newer than what it knows.",
        ]),
    Opt::new("unit_timeout", Kind::Seconds)
        .default(Default::Float(300.0))
        .about(&["Seconds that systemd may take for each of these calls."]),
];

pub const MODULE: Module = Module {
    name: "host_files",
    short: "Have files, folders, links and systemd units as they are to be",
    about: &[
        "Writes what differs, each file atomically: a program that reads it meanwhile gets the old or the new one. All of a host in one round trip, and without Python there.",
        "A folder may be another user's, such as a Compose project that belongs to its developer. Nothing is written, read or waited for where that user could lead root elsewhere: a symbolic link on the way to a file, or in its place, is refused unless it is root's in a folder of root's; so are pipes and devices.",
    ],
    version_added: "0.1.0",
    options: &[RUN, change::FENCE],
    rules: &[
        Rule::RequiredBy("variables", &["dest"]),
        Rule::RequiredTogether(&["deploy_id", "state_dir"]),
    ] as &[Rule],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "A file that is there keeps its owner unless another one is named; a new one is the executing user's.",
        "Nothing is removed but what is named as absent: a file that a release does not have any more stays.",
        "A run that was killed has done some of it; the same task again does the rest. So there is no way to restart a unit only when this task has changed a file: the run after a killed one would find nothing changed.",
    ],
    seealso: &[
        "reversible.deploy.host_files_info",
        "reversible.deploy.host_command",
        "reversible.deploy.compose_backup",
    ],
    examples: include_str!("examples.yml"),
    returns: &[
        change::RESULT,
        &[
            Return::new(
                "differ",
                Kind::List,
                "success",
                "The files that were, or in check mode would be, written, linked or removed.",
            ),
            Return::new(
                "started",
                Kind::List,
                "success",
                "The units that were, or would be, started or restarted.",
            ),
        ],
    ],
};

const INFO_OPTIONS: &[Opt] = &[
    Opt::new("paths", Kind::List)
        .elements(Kind::Str)
        .default(Default::List(&[]))
        .about(&["Absolute paths that are looked at."]),
    Opt::new("read", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "The same, of files whose text is returned as well, up to 16 MiB. They must be UTF-8.",
    ]),
    Opt::new("units", Kind::List)
        .elements(Kind::Str)
        .default(Default::List(&[]))
        .about(&["Units of systemd. Without a suffix it is a service."]),
];

pub const INFO: Module = Module {
    name: "host_files_info",
    short: "Look at files and systemd units",
    about: &[
        "Returns what exists at a path, who other than root could change it, and its content; and the state of units. Changes nothing, does not follow a link at the path itself, and needs no Python on the target.",
    ],
    version_added: "0.1.0",
    options: &[INFO_OPTIONS],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &["What is read may be secret: C(no_log) is then the task's to say."],
    seealso: &["reversible.deploy.host_files"],
    examples: include_str!("examples_info.yml"),
    returns: &[&[
        Return::new("files", Kind::Dict, "success", "What there is, by path.").contains(&[
            Return::new("exists", Kind::Bool, "always", "Whether anything has the name."),
            Return::new("kind", Kind::Str, "always", "V(file), V(directory), V(link), V(socket), V(other) or V(absent)."),
            Return::new("mode", Kind::Str, "when it exists", "Permissions, in octal.").sample(r#""0644""#),
            Return::new("uid", Kind::Int, "when it exists", "The number of its owner."),
            Return::new("gid", Kind::Int, "when it exists", "The number of its group."),
            Return::new("size", Kind::Int, "when it exists", "Its length in bytes."),
            Return::new("target", Kind::Str, "when it is a link", "Where it leads."),
            Return::new(
                "others_can_change",
                Kind::Str,
                "always",
                "What lets somebody else than root change it, links and all folders above included, or null. Of what is absent: make it.",
            )
            .sample(r#""/srv/shop belongs to uid 1000 (mode 0755)""#),
            Return::new("content", Kind::Str, "when it was asked for", "What is in the file, or null when there is none."),
        ]),
        Return::new("units", Kind::Dict, "success", "The units, by the names that were given.").contains(&[
            Return::new("exists", Kind::Bool, "always", "Whether systemd knows it."),
            Return::new("active", Kind::Str, "always", "As C(systemctl show) says it.").sample(r#""active""#),
            Return::new("enabled", Kind::Str, "always", "The same, of its file. Empty where there is none.").sample(r#""enabled""#),
            Return::new("invocation", Kind::Str, "always", "What its journal calls its last start. Empty where it was not started since the boot."),
        ]),
    ]],
};
