//! The options of `release_artifact` and `release_artifact_info`, and what they return. `options.rs`
//! makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const DEST: &[Opt] = &[Opt::new("dest", Kind::AbsolutePath).about(&[
    "The folder that holds C(releases/<sha>), and the links C(current) and C(previous). For every state but V(pushed); with V(available) the release may be there.",
    "It must be root's, on a path that no one else can write to.",
])];

const REGISTRY: &[Opt] = &[
    Opt::new("url", Kind::Str).about(&[
        "Where the archive of a release is, with C({owner}), C({package}), C({component}), C({sha}) and C({env}) for the options of these names.",
        "For Forgejo and Gitea: V(https://forge.example.org/api/packages/{owner}/generic/{package}/{sha}/{package}-{sha}.tar.zst).",
    ]),
    Opt::new("owner", Kind::Str).about(&["The owner of the package, for C({owner})."]),
    Opt::new("package", Kind::Str).about(&["The name of the package, for C({package})."]),
    Opt::new("component", Kind::Str).about(&["The component, for C({component})."]),
    Opt::new("env", Kind::Str).about(&["The environment, for C({env})."]),
    Opt::new("token", Kind::Str).secret().about(&[
        "The token that the registry wants. It is sent in a header, to the host of O(url) alone and to no other that it redirects to.",
    ]),
    Opt::new("token_header", Kind::Str)
        .default(Default::Str("Authorization: token {token}"))
        .about(&["The header for O(token), such as V(PRIVATE-TOKEN: {token})."]),
    Opt::new("ca_file", Kind::AbsolutePath).about(&[
        "The authorities to trust, in PEM, in place of the target's own.",
    ]),
    Opt::new("insecure", Kind::Bool).default(Default::Bool(false)).about(&[
        "Take any certificate. Whoever is on the way can then read O(token) and send another archive.",
    ]),
    Opt::new("sha256", Kind::Str).about(&["The SHA-256 sum of the archive, as 64 hex digits."]),
    Opt::new("sums_url", Kind::Str).about(&[
        "Where the sum is published, with the places of O(url): lines as C(sha256sum) writes them, or the list of files that Forgejo gives at V(https://forge.example.org/api/v1/packages/{owner}/generic/{package}/{sha}/files).",
        "O(token) is sent there only when scheme, host and port are those of O(url).",
    ]),
    Opt::new("tries", Kind::Positive).default(Default::Int(5)).about(&[
        "How often to try in a row when the registry does not answer, answers with an error of its own, or the connection breaks.",
        "An archive is gone on with where it broke off, and the tries count from 0 again with each further MiB.",
    ]),
    Opt::new("timeout", Kind::Seconds).default(Default::Float(30.0)).about(&[
        "For how many seconds nothing may come before a try has failed. For the whole there is O(deadline).",
    ]),
    Opt::new("deadline", Kind::Seconds).default(Default::Float(3600.0)).about(&[
        "For how many seconds the registry may be asked in all: every try, every pause, and unpacking what comes.",
    ]),
];

const CHANGE: &[Opt] = &[
    Opt::new("sha", Kind::Str).required().about(&[
        "The release, as the whole commit SHA: 40 hex digits in lower case.",
    ]),
    Opt::new("state", Kind::Str)
        .default(Default::Str("present"))
        .choices(&["available", "present", "current", "absent", "pushed"])
        .about(&[
            "V(available): the release is in O(dest), where that is given, as it was unpacked; or the registry has it. The task fails when neither is so. Nothing is changed.",
            "V(present): the release is fetched, checked and unpacked into C(releases/<sha>).",
            "V(current): as V(present), and C(current) leads to it; C(previous) leads to what was current before.",
            "V(absent): the release is removed, but never the current or the previous one.",
            "V(pushed): the archive O(src) is in the registry. What the registry has already is never replaced.",
        ]),
    Opt::new("src", Kind::AbsolutePath).about(&[
        "The archive on the target that is pushed. For O(state=pushed).",
    ]),
    Opt::new("file_owner", Kind::Str).about(&[
        "To whom unpacked files belong, by number or by name in C(/etc/passwd). Root by default; what the archive says does not count.",
    ]),
    Opt::new("file_group", Kind::Str).about(&[
        "Their group, by number or by name in C(/etc/group).",
    ]),
    Opt::new("max_unpacked", Kind::Bytes).default(Default::Str("10G")).about(&[
        "How large the archive may be once it is decompressed, and how long its files may be together, holes included: bytes, or a size such as V(20G).",
        "An archive that has or needs more is refused as soon as that is known, and nothing of it is kept: a few bytes can describe more than any disk holds.",
    ]),
    Opt::new("max_files", Kind::Positive).default(Default::Int(200_000)).about(&[
        "How many files, folders and links the archive may hold.",
        "Their names may take 256 bytes each on average, and none may be longer than 4095 bytes or deeper than 200 folders.",
    ]),
    Opt::new("umask", Kind::Str).default(Default::Str("022")).about(&[
        "Bits that no unpacked file or folder gets, as octal digits.",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "How many releases stay: the newest so many, by the order in which they were unpacked.",
        "Never removed are the current one, the previous one, O(sha), those in O(keep), and what this module did not unpack.",
        "For O(state=present) and O(state=current). Without it none is removed.",
    ]),
    Opt::new("keep", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Releases that are not removed, such as those that the ledger names; see the examples.",
    ]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. It is recorded with the release, and a run with an older id than the last one seen is refused.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of the fence, for O(deploy_id). It must be root's, on a path that no one else can write to.",
        "The default is C(/var/lib/reversible/<package>-<env>).",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(30.0)).about(&[
        "For how many seconds to wait for another task on the same O(dest).",
    ]),
];

pub const MODULE: Module = Module {
    name: "release_artifact",
    short: "Have a release of an app from the forge's package registry",
    about: &[
        "Fetches a release, checks its sum, unpacks it, makes it current, and removes old ones; checks whether the registry still has one; and pushes one that was built by hand.",
        "A release is an archive in C(tar.zst), C(tar.gz) or C(tar). It is fetched, checked and unpacked at the same time and never stored as an archive.",
        "A release gets its name only when its sum and its end are right and all of it is on the disk; C(current) is switched by a rename.",
    ],
    version_added: "0.1.0",
    options: &[DEST, REGISTRY, CHANGE],
    rules: &[
        Rule::RequiredIf("state", "available", &["url"]),
        Rule::RequiredIf("state", "present", &["dest"]),
        Rule::RequiredIf("state", "current", &["dest"]),
        Rule::RequiredIf("state", "absent", &["dest"]),
        Rule::RequiredIf("state", "pushed", &["url", "src"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "The sum is that of O(sha256), of O(sums_url), and of the registry's own header (C(Repr-Digest), C(Digest), C(X-Checksum-Sha256)); all that are known must agree. Without any, a warning says that nothing was checked.",
        "An O(url) of C(http) gives a warning unless it leads to this very machine, or O(sha256) is given and no O(token): anyone on the way can read and replace what it brings, and O(sums_url) with it.",
        "A release that is there is compared with a listing that was made when it was unpacked: name, kind, size, mode and time of each entry, and where links lead. That notices what is missing, cut or edited, in well under a second; it does not read the files again. What programs have added is no difference.",
        "An archive with an entry that would leave its folder is refused, and so is one with a device, a pipe, setuid or setgid on a file, a name that is there twice, or a symbolic link that leads out of the release. The message names the entry.",
        "Packing is the build's business: C(tar --zstd -cf shop-$SHA.tar.zst -C build .). The memory that unpacking takes is some MiB, the names of folders and links, and the window of zstd, 8 MiB up to level 19; windows of more than 128 MiB are refused.",
        "The registry is asked through the proxy that C(https_proxy) or C(http_proxy) names (C(http://[user:password@]host:port)), but for what C(no_proxy) lists and this very machine. These are variables of the task's C(environment): those of a login shell, of F(/etc/environment) and of a systemd unit do not reach a task. The playbooks take them from C(environment) in C(host_app_artifact), C(incus_app_artifact) and C(pct_app_artifact).",
        "A run that was killed leaves C(releases/<sha>.partial), and the next run takes it away and fetches again. Within a run a broken connection is gone on with.",
    ],
    seealso: &["reversible.deploy.release_artifact_info", "reversible.deploy.deploy_ledger_info"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, RETURNS],
};

const RETURNS: &[Return] = &[
    Return::new("path", Kind::Str, "success", "The folder of the release. For states that have O(dest).")
        .sample(r#""/opt/shop/backend/releases/4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a""#),
    Return::new("current", Kind::Str, "success", "The current release, or null. For states that have O(dest)."),
    Return::new("previous", Kind::Str, "success", "The release that was current before, or null. For states that have O(dest)."),
    Return::new("sha256", Kind::Str, "success", "The sum of the release's archive, or null when it is not there."),
    Return::new("here", Kind::Bool, "success", "Whether it is in O(dest), so that the registry was not asked. For O(state=available)."),
    Return::new("bytes", Kind::Int, "success", "The length of the archive. For O(state=pushed)."),
    Return::new("removed", Kind::List, "success", "The releases that were removed. For states that have O(dest)."),
    Return::new("download", Kind::Dict, "success", "What was fetched, or null.").contains(&[
        Return::new("bytes", Kind::Int, "always", "The length of the archive."),
        Return::new("sha256", Kind::Str, "always", "Its sum."),
        Return::new("checked", Kind::List, "always", "What the sum was compared with: C(sha256), C(sums_url), C(registry). Empty: with nothing."),
        Return::new("resumed", Kind::Int, "always", "How often it was gone on with."),
        Return::new("entries", Kind::Int, "always", "How many files, folders and links it holds."),
        Return::new("unpacked_bytes", Kind::Int, "always", "The length of all files."),
        Return::new("seconds", Kind::Float, "always", "How long it took, synced."),
    ]),
    Return::new("registry", Kind::Dict, "success", "What the registry says, where it was asked. For O(state=available) and O(state=pushed).").contains(&[
        Return::new("available", Kind::Bool, "always", "Whether it has the release."),
        Return::new("registry", Kind::Str, "always", "Its host and port."),
        Return::new("status", Kind::Int, "O(state=available)", "The status of its answer."),
        Return::new("bytes", Kind::Int, "O(state=available)", "The length of the archive, or null."),
        Return::new("sha256", Kind::Str, "O(state=available)", "The sum in the registry, or null."),
    ]),
];

pub const INFO: Module = Module {
    name: "release_artifact_info",
    short: "List the releases of an app on a host",
    about: &[
        "Lists the releases in a folder, which is current and which was before, their sums, and whether the registry still has them. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[
        REGISTRY,
        &[
            Opt::new("dest", Kind::AbsolutePath).about(&[
                "The folder that holds C(releases/<sha>), and the links C(current) and C(previous).",
            ]),
            Opt::new("dests", Kind::List).elements(Kind::AbsolutePath).about(&[
                "Several such folders, as those of an app's components, whose releases are returned in RV(folders).",
            ]),
            Opt::new("sha", Kind::Str)
                .about(&["A release to ask the registry for although it is not here. For O(url)."]),
            Opt::new("verify", Kind::Bool).default(Default::Bool(false)).about(&[
                "Compare each release with the listing that was made when it was unpacked.",
            ]),
        ],
    ],
    rules: &[Rule::RequiredOneOf(&["dest", "dests"]), Rule::MutuallyExclusive(&["dest", "dests"])],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[
        "A registry that cannot be asked is no failure: C(available) is then null, and C(why) has the reason.",
        "Proxies are those of the task's C(environment), as M(reversible.deploy.release_artifact) says.",
    ],
    seealso: &["reversible.deploy.release_artifact"],
    examples: include_str!("examples_info.yml"),
    returns: &[&[
        Return::new(
            "folders",
            Kind::List,
            "with O(dests)",
            "For each of them, in their order, what is returned for O(dest) otherwise.",
        ),
        Return::new("dest", Kind::Str, "with O(dest)", "The folder."),
        Return::new("current", Kind::Str, "with O(dest)", "The current release, or null."),
        Return::new(
            "previous",
            Kind::Str,
            "success",
            "The release that was current before, or null.",
        ),
        Return::new("releases", Kind::List, "success", "The releases, the newest first.").contains(
            &[
                Return::new("sha", Kind::Str, "always", "The release."),
                Return::new("path", Kind::Str, "always", "Its folder."),
                Return::new("current", Kind::Bool, "always", "Whether it is the current one."),
                Return::new("previous", Kind::Bool, "always", "Whether it is the previous one."),
                Return::new("ours", Kind::Bool, "always", "Whether this module unpacked it."),
                Return::new("why", Kind::Str, "when it is not ours", "How that is known."),
                Return::new("unpacked", Kind::Str, "when it is ours", "When, in UTC."),
                Return::new("deploy_id", Kind::Str, "when it is ours", "By which deploy, or null."),
                Return::new("from", Kind::Str, "when it is ours", "Host and port of the registry."),
                Return::new("sha256", Kind::Str, "when it is ours", "The sum of its archive."),
                Return::new(
                    "checked",
                    Kind::List,
                    "when it is ours",
                    "What the sum was compared with.",
                ),
                Return::new(
                    "archive_bytes",
                    Kind::Int,
                    "when it is ours",
                    "The length of the archive.",
                ),
                Return::new("bytes", Kind::Int, "when it is ours", "The length of all files."),
                Return::new(
                    "entries",
                    Kind::Int,
                    "when it is ours",
                    "How many files, folders and links.",
                ),
                Return::new(
                    "damage",
                    Kind::Str,
                    "with O(verify)",
                    "How it differs from its listing, or null.",
                ),
                Return::new(
                    "in_registry",
                    Kind::Bool,
                    "with O(url)",
                    "Whether the registry still has it, or null when it cannot be asked.",
                ),
            ],
        ),
        Return::new(
            "registry",
            Kind::Dict,
            "with O(url)",
            "What the registry says of each release, by its SHA.",
        ),
        Return::new(
            "leftovers",
            Kind::List,
            "success",
            "What a killed run has left in C(releases).",
        ),
    ]],
};
