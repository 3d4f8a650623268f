//! The options of `haproxy_color_switch` and `haproxy_color_switch_info`, and what they return.
//! `options.rs` makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const WHERE: &[Opt] = &[
    Opt::new("method", Kind::Str).choices(&["map", "reload"]).about(&[
        "Where the active colour lives.",
        "V(map): in a map of HAProxy; a flip is one runtime command, and HAProxy is not reloaded.",
        "V(reload): in the configuration; a flip replaces it and reloads HAProxy.",
        "The default is V(map) when O(map) is given, else V(reload).",
    ]),
    Opt::new("map", Kind::AbsolutePath).about(&[
        "The map file, written as the configuration names it. For O(method=map).",
        "Where HAProxy runs in a container, or has mounts of its own for another reason, mount the folder of this file there, and not the file: a mount of one file keeps the old content when the file is replaced. Such a mount is refused.",
    ]),
    Opt::new("map_key", Kind::Str).default(Default::Str("active")).about(&[
        "The key of this app and environment in the map, such as V(shop-staging).",
        "Its value is V(blue) or V(green), or a name that holds one of them as a word, such as V(shop-blue).",
    ]),
    Opt::new("config", Kind::AbsolutePath).default(Default::Str("/etc/haproxy/haproxy.cfg")).about(&[
        "The configuration of HAProxy. It is replaced for O(method=reload), and only read otherwise. For mounts the same holds as for O(map).",
    ]),
    Opt::new("stats_socket", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "The stats sockets of the HAProxy processes, each a path or V(address:port), with C(level admin).",
        "The default is the first C(stats socket) of O(config) that is a path, preferably with C(level admin).",
        "With several, all of them are flipped, one after the other, or none.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of C(active-color) and C(active-color.history). It must be root's, on a path that no one else can write to.",
        "The default is C(/var/lib/reversible/<map_key>).",
    ]),
    Opt::new("backends", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "The backends that follow the colour, one for each component.",
        "A name may hold C({color}) where each colour has a backend of its own, such as V(shop-web-{color}); then all of its servers are of that colour.",
        "The default is what O(config) says: the backends of its C(use_backend) rules that ask the map for O(map_key), or those that hold servers of both colours.",
    ]),
    Opt::new("server_name", Kind::Str).default(Default::Str("{color}")).about(&[
        "How a colour's server is called in a backend that holds both colours, such as V({component}-{color}).",
        "C({color}) stands for the colour and C({component}) for any name. A number may follow, as in C(web-blue2).",
    ]),
];

const FLIP: &[Opt] = &[
    Opt::new("color", Kind::Str).required().choices(&["blue", "green", "previous"]).about(&[
        "The colour to make active.",
        "V(previous) is the other colour with the release that the history calls good; it is refused when that release is void.",
    ]),
    Opt::new("release", Kind::Str).about(&[
        "The release that the colour holds, as a commit SHA. It is recorded, and is what O(prove) and O(probe) expect.",
        "For O(color=previous) the history knows it.",
    ]),
    Opt::new("content", Kind::Str).about(&[
        "The new configuration. For O(method=reload).",
        "Without it and O(src), the configuration is used with which O(color) was last left.",
    ]),
    Opt::new("src", Kind::AbsolutePath).about(&["The same as O(content), from a file on the load balancer."]),
    Opt::new("validate", Kind::List)
        .elements(Kind::Str)
        .default(Default::List(&["haproxy", "-c", "-f", "%s"]))
        .about(&[
            "The program and arguments that check a new configuration; C(%s) is its file.",
            "It is run before anything is replaced.",
        ]),
    Opt::new("master_socket", Kind::AbsolutePath).about(&[
        "The socket of HAProxy's master process. When given, it is what reloads.",
    ]),
    Opt::new("unit", Kind::Str).default(Default::Str("haproxy.service")).about(&[
        "The systemd unit that reloads, where there is no O(master_socket) and the unit is active.",
    ]),
    Opt::new("pidfile", Kind::Path).about(&[
        "The pid file of HAProxy's master process. It is signalled where there is neither O(master_socket) nor an active O(unit).",
    ]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. It is recorded in the history, and a run with an older id than the last one seen is refused.",
    ]),
    Opt::new("target_timeout", Kind::Seconds).default(Default::Float(10.0)).about(&[
        "For how many seconds to wait until the servers of the colour are up.",
    ]),
    Opt::new("since", Kind::Str).about(&[
        "When the colour's servers were recreated, in UTC, as C(2026-11-21T08:45:00Z) or C(2026-11-21T08:45:00.25Z).",
        "A health check counts only when it passed after that.",
    ]),
    Opt::new("probe", Kind::Dict).options(PROBE).about(&[
        "Ask every server of the colour itself before the flip, at the address that HAProxy has for it.",
    ]),
    Opt::new("prove", Kind::Dict).options(PROVE).about(&[
        "Ask through HAProxy after the flip. When the proof fails, the old colour is made active again and the task fails.",
    ]),
    Opt::new("error_budget", Kind::Dict).options(BUDGET).about(&[
        "Watch the colour's servers after the flip, and go back at once when too many requests fail.",
        "When a larger share had failed on the old colour just before the flip, the task fails and the new colour stays active, its release recorded as void.",
    ]),
    Opt::new("drain_timeout", Kind::Seconds).default(Default::Float(0.0)).about(&[
        "For how many seconds to wait, at the end, until the old colour has no sessions.",
        "Sessions that are left then are reported; it is no failure, and they are not cut.",
    ]),
    Opt::new("void", Kind::Bool).default(Default::Bool(false)).about(&[
        "Mark the release that is left as void, so that O(color=previous) never goes back to it.",
    ]),
    Opt::new("drift", Kind::Str).default(Default::Str("refuse")).choices(&["refuse", "settle"]).about(&[
        "What to do when the live HAProxy, the map file and the configuration disagree and no run of ours explains it.",
        "V(refuse) changes nothing and says what differs. V(settle) makes all of them say O(color).",
    ]),
    Opt::new("history", Kind::Int).default(Default::Int(5)).about(&[
        "How many entries of the history are kept.",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(30.0)).about(&[
        "For how many seconds to wait for another task on the same HAProxy.",
    ]),
];

const PROBE: &[Opt] = &[
    Opt::new("path", Kind::Str).default(Default::Str("/")).about(&["The path to ask for."]),
    Opt::new("port", Kind::Int).about(&["The port, when it is not the one that HAProxy uses."]),
    Opt::new("scheme", Kind::Str).default(Default::Str("http")).choices(&["http", "https"]).about(&[
        "How to ask. With V(https) the certificate is not checked, as a server has no name here.",
    ]),
    HEADERS,
    STATUS,
    RELEASE_FIELD,
    RELEASE_HEADER,
    TEXT,
    TRIES,
    DELAY,
    TIMEOUT,
];

const PROVE: &[Opt] = &[
    Opt::new("url", Kind::Str).required().about(&[
        "What to ask for, such as C(https://127.0.0.1/api/health) together with a header C(Host).",
    ]),
    Opt::new("ca_file", Kind::AbsolutePath)
        .about(&["The certificates to trust instead of the system's."]),
    Opt::new("insecure", Kind::Bool)
        .default(Default::Bool(false))
        .about(&["Do not check the certificate. The result warns of it."]),
    HEADERS,
    STATUS,
    RELEASE_FIELD,
    RELEASE_HEADER,
    TEXT,
    TRIES,
    DELAY,
    TIMEOUT,
];

const HEADERS: Opt =
    Opt::new("headers", Kind::Dict).secret().about(&["Headers to send. They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up."]);
const STATUS: Opt = Opt::new("status", Kind::List)
    .elements(Kind::Int)
    .default(Default::List(&["200"]))
    .about(&["The status codes that are good."]);
const RELEASE_FIELD: Opt = Opt::new("release_field", Kind::Str)
    .about(&["The field of the JSON answer that must hold O(release), such as V(build.sha)."]);
const RELEASE_HEADER: Opt = Opt::new("release_header", Kind::Str)
    .about(&["The header of the answer that must hold O(release), such as V(X-Release)."]);
const TEXT: Opt = Opt::new("text", Kind::Str).about(&["What the answer must contain."]);
const TRIES: Opt = Opt::new("tries", Kind::Int)
    .default(Default::Int(5))
    .about(&["How often to ask before it counts as failed."]);
const DELAY: Opt = Opt::new("delay", Kind::Seconds)
    .default(Default::Float(0.5))
    .about(&["Seconds between two tries."]);
const TIMEOUT: Opt = Opt::new("timeout", Kind::Seconds)
    .default(Default::Float(5.0))
    .about(&["Seconds for one try."]);

const BUDGET: &[Opt] = &[
    Opt::new("watch", Kind::Seconds).default(Default::Float(0.0)).about(&[
        "For how many seconds to watch. V(0) does not watch.",
    ]),
    Opt::new("max_failed", Kind::Int).about(&[
        "The most requests that may fail. The default is no such limit.",
    ]),
    Opt::new("max_share", Kind::Float).default(Default::Float(0.05)).about(&[
        "The largest share of requests that may fail, from V(0) to V(1), above the share that failed on the old colour just before the flip, while the task looked at the new one.",
        "When the old colour had fewer than O(error_budget.min_requests) requests just then, nothing is added.",
    ]),
    Opt::new("max_total", Kind::Float).about(&[
        "The largest share of requests that may fail on the new colour, from V(0) to V(1), whatever the old one did. The default is no such limit.",
    ]),
    Opt::new("min_requests", Kind::Int).default(Default::Int(20)).about(&[
        "How many requests are needed before the share counts.",
        "When nobody is awake, requests of our own as O(prove) describes them make up for what is missing; without O(prove) too few requests are a failure.",
    ]),
];

pub const MODULE: Module = Module {
    name: "haproxy_color_switch",
    short: "Make the blue or the green servers active in HAProxy, prove it, and go back by itself",
    about: &[
        "One task does all of it on the load balancer: it makes sure that the servers of the colour are up, flips, proves the new colour through HAProxy, watches an error budget, and goes back by itself when something fails.",
        "The live map, persisted in its file, is the only authority for O(method=map). C(active-color) (one word) and C(active-color.history) (newest first, C(<time> <color> <release> <deploy id> <good|void>)) are written for people and runbooks.",
        "The same task again changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, FLIP, change::ROLLBACK_ID],
    rules: &[
        Rule::RequiredIf("method", "map", &["map"]),
        Rule::MutuallyExclusive(&["content", "src"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Check mode shows the plan; proof, error budget and drain are not evaluated.",
        "No connection is cut: requests that are under way, WebSockets and tunnels stay on the old colour until they end.",
        "HAProxy 2.6 or newer, in master-worker mode for O(method=reload).",
    ],
    seealso: &["reversible.deploy.haproxy_color_switch_info"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, SEEN, DONE],
};

pub const INFO: Module = Module {
    name: "haproxy_color_switch_info",
    short: "Read which colour is active in HAProxy, and whether a rollback is possible",
    about: &[
        "Reads the live HAProxy, the map file or the configuration, and our own record. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[WHERE],
    rules: &[Rule::RequiredIf("method", "map", &["map"])],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[],
    seealso: &["reversible.deploy.haproxy_color_switch"],
    examples: include_str!("examples_info.yml"),
    returns: &[SEEN],
};

const SEEN: &[Return] = &[
    Return::new("active", Kind::Str, "success", "The active colour, or null when HAProxy names none.").sample(r#""green""#),
    Return::new("release", Kind::Str, "success", "The release of the active colour, as the history knows it, or null."),
    Return::new("previous", Kind::Dict, "success", "Where C(color=previous) would go.").contains(&[
        Return::new("color", Kind::Str, "always", "The colour, or null."),
        Return::new("release", Kind::Str, "always", "Its release, or null."),
        Return::new("open", Kind::Bool, "always", "Whether one can go there now."),
        Return::new("why", Kind::Str, "always", "Why not, or null."),
    ]),
    Return::new("colors", Kind::Dict, "success", "What HAProxy says of each colour, under C(blue) and C(green).").contains(&[
        Return::new("up", Kind::Bool, "always", "Whether all of its servers are up by a check that passed."),
        Return::new("sessions", Kind::Int, "always", "How many sessions its servers have now."),
        Return::new("servers", Kind::List, "always", "Its servers.").contains(&[
            Return::new("backend", Kind::Str, "always", "The backend."),
            Return::new("server", Kind::Str, "always", "The server."),
            Return::new("address", Kind::Str, "always", "Its address, or null."),
            Return::new("status", Kind::Str, "always", "Its status, as HAProxy words it."),
            Return::new("check", Kind::Str, "always", "The last health check, as HAProxy words it."),
            Return::new("sessions", Kind::Int, "always", "Its sessions now."),
        ]),
    ]),
    Return::new("places", Kind::Dict, "success", "What each place says is active: C(live), C(file) (the map or the configuration), C(record) (C(active-color)).")
        .sample(r#"{"live": "green", "file": "green", "record": "blue"}"#),
    Return::new("drift", Kind::List, "success", "In sentences, where these places disagree. Empty when they agree."),
    Return::new("history", Kind::List, "success", "The record of flips, the newest first.").contains(&[
        Return::new("time", Kind::Str, "always", "When, in UTC."),
        Return::new("color", Kind::Str, "always", "The colour."),
        Return::new("release", Kind::Str, "always", "The release, or null."),
        Return::new("deploy_id", Kind::Str, "always", "The run, or null."),
        Return::new("verdict", Kind::Str, "always", "V(good) or V(void)."),
    ]),
    Return::new("unfinished", Kind::Str, "success", "Since when a run that was killed waits to be finished, or null."),
];

const DONE: &[Return] = &[
    Return::new("stays", Kind::Str, "on failure, when the old colour was worse", "Why the new colour stays active although O(error_budget) is broken."),
    Return::new("flip", Kind::Dict, "when a flip was made, also on failure", "The flip in numbers.").contains(&[
        Return::new("at", Kind::Float, "always", "When the flip began, in seconds since 1970."),
        Return::new("milliseconds", Kind::Dict, "always", "How long C(target), C(flip), C(record), C(prove), C(watch), C(drain) and C(back) took, as far as they were done."),
        Return::new("proof", Kind::Dict, "with O(prove)", "Tries, the last status and its milliseconds."),
        Return::new("budget", Kind::Dict, "with O(error_budget)", "Requests, failed, share, requests of our own, and what the old colour had just before the flip: C(requests_before), and C(share_before), which is V(0) when these were too few."),
        Return::new("sessions_left", Kind::Int, "always", "Sessions that the old colour still had at the end."),
        Return::new("reverted", Kind::Bool, "always", "Whether the old colour was made active again."),
    ]),
];
