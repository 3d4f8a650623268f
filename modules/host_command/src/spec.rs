//! The options of `host_command`, and what it returns. `options.rs` makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Support};

const RUN: &[Opt] = &[
    Opt::new("argv", Kind::List).elements(Kind::Str).required().about(&[
        "The program and its arguments, to the letter: no shell, and no variables of the environment in them.",
        "A program without a slash is looked for on PATH, then in the sbin folders. Root runs none that another user could have put there.",
        "A relative path is one below O(chdir).",
    ]),
    Opt::new("chdir", Kind::AbsolutePath).about(&["The folder that it runs in. The default is the one that the task itself runs in."]),
    Opt::new("stdin", Kind::Str).secret().about(&["What it reads from its standard input, to the letter. It is not shown."]),
    Opt::new("removes", Kind::AbsolutePath).about(&["It is not run where nothing has this name."]),
    Opt::new("deadline", Kind::Seconds).default(Default::Float(86400.0)).about(&[
        "Seconds after which it is ended, with all that it has started.",
    ]),
];

pub const MODULE: Module = Module {
    name: "host_command",
    short: "Run a program on a host that needs no Python",
    about: &[
        "Runs one program, without a shell, and returns what it has printed, as M(ansible.builtin.command) does, which needs Python on the target.",
        "In check mode it is not run, unless the task says C(check_mode=false).",
        "A connection that is lost ends nothing: the program goes on to its end.",
    ],
    version_added: "0.1.0",
    options: &[RUN],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[
        "It has the environment of the task, and the locale C(C.UTF-8) where that says none.",
        "Of what it prints to each of its outputs 16 MiB are returned, the beginning and the end.",
        "What it prints may be secret: C(no_log) is then the task's to say. Secrets are no arguments: everybody on the machine can read those.",
    ],
    seealso: &["ansible.builtin.command", "reversible.deploy.host_files"],
    examples: include_str!("examples.yml"),
    returns: &[RESULT],
};

const RESULT: &[Return] = &[
    Return::new("cmd", Kind::List, "always", "The program and its arguments."),
    Return::new(
        "rc",
        Kind::Int,
        "always",
        "How it ended; the negative number of a signal that ended it.",
    ),
    Return::new("stdout", Kind::Str, "always", "What it printed, without line ends at its end."),
    Return::new("stderr", Kind::Str, "always", "The same of its messages."),
    Return::new("stdout_lines", Kind::List, "always", "The lines of RV(stdout)."),
    Return::new("stderr_lines", Kind::List, "always", "The lines of RV(stderr)."),
    Return::new(
        "msg",
        Kind::Str,
        "always",
        "On failure how it ended, and the last line that it printed. Not its arguments, which may be secrets.",
    ),
];
