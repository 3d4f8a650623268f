//! An option of every type, with every rule somewhere.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const TYPES: &[Opt] = &[
    Opt::new("behave", Kind::Str)
        .default(Default::Str("echo"))
        .choices(&[
            "echo",
            "replace",
            "fail",
            "panic",
            "exit",
            "garbage",
            "partial",
            "silent",
            "sleep",
            "stuck",
            "child_fails",
            "child_hangs",
            "child_floods",
            "child_leaves_grandchild",
        ])
        .about(&["What to do."]),
    Opt::new("text", Kind::Str).aliases(&["string", "words"]).about(&["A string."]),
    Opt::new("flag", Kind::Bool).about(&["A boolean."]),
    Opt::new("number", Kind::Int).aliases(&["count"]).about(&["A whole number."]),
    Opt::new("fraction", Kind::Float).about(&["A float."]),
    Opt::new("where", Kind::Path).about(&["A path."]),
    Opt::new("size", Kind::Bytes).about(&["A size."]),
    Opt::new("anything", Kind::Raw).about(&["Any value."]),
    Opt::new("items", Kind::List)
        .elements(Kind::Str)
        .default(Default::List(&[]))
        .about(&["A list of strings."]),
    Opt::new("numbers", Kind::List).elements(Kind::Int).about(&["A list of whole numbers."]),
    Opt::new("flavours", Kind::List)
        .elements(Kind::Str)
        .choices(&["sweet", "sour"])
        .about(&["A list of choices."]),
    Opt::new("answer", Kind::Str)
        .choices(&["yes", "no", "later"])
        .about(&["Words that YAML takes for booleans."]),
    Opt::new("map", Kind::Dict).about(&["Any dictionary."]),
    Opt::new("servers", Kind::List)
        .elements(Kind::Dict)
        .options(SERVER)
        .about(&["A list of dictionaries."]),
    Opt::new("login", Kind::Dict).options(LOGIN).about(&["A dictionary with a secret in it."]),
    Opt::new("secret", Kind::Str).secret().about(&["A secret."]),
    Opt::new("changed", Kind::Bool).default(Default::Bool(false)).about(&["What to answer."]),
    Opt::new("warning", Kind::Str).about(&["A warning to give."]),
    Opt::new("seconds", Kind::Seconds)
        .default(Default::Float(1.0))
        .about(&["How long to sleep, or how long a child may take."]),
    Opt::new("file", Kind::Path).about(&["The file to replace."]),
    Opt::new("content", Kind::Str).about(&["What to put into it."]),
    Opt::new("state_dir", Kind::Path).about(&["Where the state of O(behave=replace) is kept."]),
    Opt::new("deploy_id", Kind::Str).about(&["The id of the deploy."]),
];

const SERVER: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["Its name."]),
    Opt::new("port", Kind::Int).default(Default::Int(80)).about(&["Its port."]),
];

const LOGIN: &[Opt] = &[
    Opt::new("user", Kind::Str).about(&["Who."]),
    Opt::new("password", Kind::Str).secret().about(&["A secret."]),
];

pub const MODULE: Module = Module {
    name: "specimen",
    short: "A module for tests",
    about: &["Gives its options back, or behaves badly."],
    version_added: "0.1.0",
    options: &[TYPES, change::ROLLBACK_ID, change::CONSENT],
    rules: &[
        Rule::MutuallyExclusive(&["text", "number"]),
        Rule::RequiredTogether(&["file", "state_dir"]),
        Rule::RequiredIf("behave", "replace", &["file", "content"]),
        Rule::RequiredBy("fraction", &["flag"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[],
    seealso: &[],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT],
};

pub const INFO: Module = Module {
    name: "specimen_info",
    short: "A second module of the same binary",
    about: &["Tells who it runs as."],
    version_added: "0.1.0",
    options: &[],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[],
    seealso: &[],
    examples: include_str!("examples.yml"),
    returns: &[&[Return::new("uid", Kind::Int, "success", "Who it runs as.")]],
};
