//! The options of `haproxy_hold` and `haproxy_hold_info`, and what they return. `options.rs` makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Support};

const WHERE: &[Opt] = &[
    Opt::new("stats_socket", Kind::List)
        .elements(Kind::Str)
        .default(Default::List(&["/run/haproxy/admin.sock"]))
        .about(&[
            "The stats sockets of the HAProxy processes, each a path or V(address:port), with C(level admin).",
            "With several, requests are held at all of them, or at none.",
        ]),
    Opt::new("master_socket", Kind::AbsolutePath).default(Default::Str("/run/haproxy-master.sock")).about(&[
        "The socket of HAProxy's master process.",
        "Through it the workers that a reload has left behind are notified of a release: the requests that they hold would wait until the hold ends by itself.",
        "It is used where it is there.",
    ]),
];

const HOLD: &[Opt] = &[
    Opt::new("map_key", Kind::Str).required().about(&[
        "The app and environment whose requests are held, as HAProxy's C(http-request lua.reversible-hold) names it, such as V(shop-staging).",
    ]),
    Opt::new("state", Kind::Str).default(Default::Str("held")).choices(&["held", "released"]).about(&[
        "V(held): new requests of the app wait. Those that are under way go on.",
        "V(released): they wait no longer, and go to their servers.",
    ]),
    Opt::new("most", Kind::Seconds).default(Default::Float(30.0)).about(&[
        "For how many seconds requests are held at most, when nobody releases them. Then they go to their servers, up or not.",
        "HAProxy has a bound of its own, C(haproxy_hold_seconds) of the role P(reversible.deploy.haproxy#role); more is refused.",
    ]),
    Opt::new("backends", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "The backends of the app whose servers are looked at.",
        "V(state=held) waits at its end until none of them has a request under way. V(state=released) first waits until each has a server that is up by a check that passed.",
    ]),
    Opt::new("drain_timeout", Kind::Seconds).default(Default::Float(10.0)).about(&[
        "For how many seconds V(state=held) waits for the requests that are under way. What is left then is in the result, and is no failure.",
    ]),
    Opt::new("up_timeout", Kind::Seconds).default(Default::Float(10.0)).about(&[
        "For how many seconds V(state=released) waits for servers, and never longer than the hold lasts. Requests are released after it, whatever came of it; a warning says which backend has no server.",
    ]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. It is written into the map with the hold, and a run with an older id than the last one seen is refused.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder that keeps the newest O(deploy_id). It must be root's, on a path that no one else can write to.",
        "The default is C(/var/lib/reversible/<map_key>).",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(30.0)).about(&[
        "For how many seconds to wait for another task on the same app or map.",
    ]),
];

const INFO_ONLY: &[Opt] = &[Opt::new("map_key", Kind::Str)
    .about(&["The app and environment that is asked about. The default is all."])];

pub const MODULE: Module = Module {
    name: "haproxy_hold",
    short: "Hold an app's requests in HAProxy while what answers them restarts",
    about: &[
        "Requests of an app wait in HAProxy for a bounded time, instead of failing while its only server restarts.",
        "HAProxy does it by a script, which the role P(reversible.deploy.haproxy#role) brings. Without it the task is refused, and nothing is changed.",
        "The end of a hold is in HAProxy's map from the beginning, so a controller that dies holds nobody for longer.",
        "Of each app a number of requests can wait at once; the next ones get 503 with C(Retry-After).",
    ],
    version_added: "0.1.0",
    options: &[HOLD, WHERE],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "An app that is held already stays held until the same time, unless another deploy has held it.",
        "Requests are held, no connections: WebSockets that are open and TCP proxies are not.",
        "A client that waits has patience of its own, and so have proxies in between. HAProxy before 3.2 does not notice that a client went away while it waits: its request counts until the hold is over, and is sent to the server then.",
    ],
    seealso: &["reversible.deploy.haproxy_hold_info", "reversible.deploy.haproxy_color_switch"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, DONE],
};

pub const INFO: Module = Module {
    name: "haproxy_hold_info",
    short: "List the apps that are held in HAProxy, until when, and how many requests wait",
    about: &["Reads HAProxy's map and what its script has counted. Changes nothing."],
    version_added: "0.1.0",
    options: &[INFO_ONLY, WHERE],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[],
    seealso: &["reversible.deploy.haproxy_hold"],
    examples: include_str!("examples_info.yml"),
    returns: &[&[
        Return::new(
            "holds",
            Kind::List,
            "success",
            "What is held now, and what has ended by itself and was not released.",
        )
        .contains(ONE),
        Return::new("limits", Kind::Dict, "success", "What HAProxy's script allows.").contains(&[
            Return::new("seconds", Kind::Int, "always", "For how long a request is held at most."),
            Return::new(
                "requests",
                Kind::Int,
                "always",
                "How many requests of one app are held at once.",
            ),
        ]),
    ]],
};

const DONE: &[Return] = &[Return::new(
    "hold",
    Kind::Dict,
    "success",
    "The hold, or the one that was released; null when there was none.",
)
.contains(ONE)];

const ONE: &[Return] = &[
    Return::new("map_key", Kind::Str, "always", "The app and environment."),
    Return::new("held", Kind::Bool, "always", "Whether its requests are held now."),
    Return::new("since", Kind::Str, "always", "When it began, in UTC."),
    Return::new("until", Kind::Str, "always", "When it ends by itself, in UTC."),
    Return::new("deploy_id", Kind::Str, "always", "The run that holds it, or null."),
    Return::new("waiting", Kind::Int, "always", "How many requests wait now."),
    Return::new(
        "waited",
        Kind::Int,
        "always",
        "How many requests have waited, those that wait now included.",
    ),
    Return::new(
        "longest",
        Kind::Float,
        "always",
        "For how many seconds the longest of them has waited.",
    ),
    Return::new("refused", Kind::Int, "always", "How many got 503, since too many waited."),
    Return::new(
        "expired",
        Kind::Int,
        "always",
        "How many were let go since the hold ended by itself, servers up or not.",
    ),
    Return::new(
        "left",
        Kind::Int,
        "always",
        "How many went away while they waited, as far as HAProxy noticed.",
    ),
    Return::new(
        "under_way",
        Kind::Int,
        "when backends are named to M(reversible.deploy.haproxy_hold)",
        "How many requests the servers still had when C(drain_timeout) was over, or 0.",
    ),
];
