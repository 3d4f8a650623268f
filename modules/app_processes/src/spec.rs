//! The options of `app_processes`, and what it returns. `options.rs` makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const PROCESS: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["How it is called in the result."]),
    Opt::new("pidfile", Kind::AbsolutePath).required().about(&[
        "The file with its process id. A second file, ending in C(.began), has the time of its start.",
        "Its folder, and all above it, must be such that only root can change them: who can write to it could have any process ended.",
        "A process of another user than O(processes[].user), or that began at another time, is not touched, whatever the file says.",
    ]),
    Opt::new("argv", Kind::List).elements(Kind::Str).about(&[
        "The program, by its absolute path, and its arguments. No shell. For O(state=restarted).",
    ]),
    Opt::new("user", Kind::Str).default(Default::Str("root")).about(&[
        "Who it runs as: a name in F(/etc/passwd), or a number.",
        "A number that does not stand there has the group of the same number and no other; it wants C(setpriv) of util-linux.",
    ]),
    Opt::new("chdir", Kind::AbsolutePath).about(&["The folder that it runs in. The default is C(/)."]),
    Opt::new("log", Kind::AbsolutePath).about(&[
        "A regular file to which what it prints is appended; its folder is made. Without it, that is lost.",
        "In a folder that others than root can change, it is opened with the rights of O(processes[].user), for writing and for reading, and refused for root.",
    ]),
    Opt::new("environment", Kind::Dict).secret().about(&[
        "Variables for it. It has C(PATH), C(HOME) and C(TZ) else, and the locale C(C.UTF-8). They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
];

const RUN: &[Opt] = &[
    Opt::new("processes", Kind::List)
        .elements(Kind::Dict)
        .required()
        .options(PROCESS)
        .about(&["The processes. They are ended side by side, then started side by side."]),
    Opt::new("state", Kind::Str)
        .default(Default::Str("restarted"))
        .choices(&["restarted", "stopped", "observed"])
        .about(&[
            "V(restarted) ends what runs, all of it, and starts it again.",
            "V(stopped) only ends it.",
            "V(observed) changes nothing: it returns which processes run and, with O(log_lines), their last output.",
        ]),
    Opt::new("kept_logs", Kind::AbsolutePath).about(&[
        "For O(state=stopped): a folder into which the logs are copied first, as C(<name>.log); a copy that is there already stays.",
        "It is made where it is missing (0700). It must be root's, on a path that no one else can write to.",
        "Of a log that is longer than 64 MiB its end is kept. One that does not exist is passed over.",
    ]),
    Opt::new("log_lines", Kind::Count).default(Default::Int(0)).about(&[
        "For O(state=observed): how many of the last lines of each log to return in RV(logs). They may hold secrets.",
    ]),
    Opt::new("stop_timeout", Kind::Seconds)
        .default(Default::Float(15.0))
        .about(&["Seconds that each has to end after SIGTERM. What still runs then is killed."]),
    Opt::new("unless_systemd", Kind::Bool).default(Default::Bool(false)).about(&[
        "Whether to do nothing on a machine where systemd runs. RV(systemd) says which it is.",
    ]),
];

pub const MODULE: Module = Module {
    name: "app_processes",
    short: "End and start the processes of an app side by side, where no systemd runs",
    about: &[
        "For machines and containers without a service manager: several processes are ended and started again, all at the same time.",
        "They are started by C(start-stop-daemon) and go on without the connection. Nobody starts one again when it ends: where systemd runs, use units.",
    ],
    version_added: "0.1.0",
    options: &[RUN, change::FENCE],
    rules: &[Rule::RequiredTogether(&["deploy_id", "state_dir"])] as &[Rule],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "C(start-stop-daemon) is that of dpkg (1.20.6 or later): busybox has one that cannot write a log.",
        "A process that ended, but whose parent has not asked how, counts as ended.",
        "A run that was killed has ended some of them, or started some: the same task again ends and starts all.",
    ],
    seealso: &["reversible.deploy.health_gate"],
    examples: include_str!("examples.yml"),
    returns: &[
        change::RESULT,
        &[
            Return::new("systemd", Kind::Bool, "always", "Whether systemd runs on the machine."),
            Return::new(
                "logs",
                Kind::Dict,
                "O(state=observed) with O(log_lines)",
                "The last lines of each log that there is, by the name of its process.",
            ),
        ],
    ],
};
