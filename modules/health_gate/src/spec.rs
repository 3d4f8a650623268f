//! The options of `health_gate`, and what it returns. `options.rs` makes typed values of them.
//!
//! Options of single kinds have no default here, so that an option of another kind can be refused.

use crate::kinds;
use ansible_module::{Default, Kind, Module, Opt, Return, Support};

const GATE: &[Opt] = &[
    Opt::new("probes", Kind::List).elements(Kind::Dict).required().options(PROBE).about(&[
        "What must hold. The probes run side by side, at most 32 at once.",
        "Besides the options of all probes, each kind has its own; any other option is refused.",
    ]),
    Opt::new("require", Kind::Str).default(Default::Str("all")).about(&[
        "How many of the probes must hold: V(all), or a number.",
        "With V(0) the gate only observes, for a later run to compare with; probes that fail are warnings then.",
    ]),
    Opt::new("deadline", Kind::Seconds).default(Default::Float(120.0)).about(&[
        "Seconds for everything. A probe that has not held by then has failed.",
    ]),
    Opt::new("baseline", Kind::Dict).about(&[
        "The registered result of an earlier run of the same gate, before the deploy. Probes are matched by name and kind.",
        "Values are compared with what they were (V(max_rise), V(max_factor), V(min_factor)), alerts that fired already then do not count, and restarts and log lines are counted from then on.",
        "A probe that has to be compared, and that had no answer then, fails.",
    ]),
];

const PROBE: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["How the probe is called in the result. Each name once."]),
    Opt::new("kind", Kind::Str).required().choices(kinds::NAMES).about(&[
        "What is asked.",
        "V(http): a URL, by O(probes[].url). V(tcp): whether O(probes[].port) of O(probes[].host) takes connections. V(listener): whether whoever listens on O(probes[].port) of this machine is a process of O(probes[].unit) or of O(probes[].pidfile): a service that cannot have its port may be answered for by whoever has it. V(command): the program O(probes[].argv).",
        "V(docker): whether O(probes[].containers) run and are healthy. V(compose): the same for a whole O(probes[].project). V(incus): whether O(probes[].instance) runs. V(pct): whether O(probes[].vmid) runs.",
        "V(disk): how full the filesystem of O(probes[].path) is. V(unit): the state of the systemd unit O(probes[].unit).",
        "V(prometheus): what O(probes[].query) gives. V(alerts): which alerts of a Prometheus fire.",
        "V(logs): new lines in the journal of O(probes[].unit), the log of O(probes[].container), or the file O(probes[].path).",
        "V(restarts): how often O(probes[].containers) or O(probes[].unit) are restarted.",
        "V(pods): whether the Kubernetes pods with O(probes[].labels) in O(probes[].namespace) are ready, how often their containers are restarted, and with O(probes[].regex) or O(probes[].text) which new lines their logs have. It runs C(kubectl).",
    ]),
    Opt::new("tries", Kind::Int).default(Default::Int(3)).about(&["How often to ask before it counts as failed."]),
    Opt::new("delay", Kind::Float).default(Default::Float(2.0)).about(&["Seconds between two tries."]),
    Opt::new("consecutive", Kind::Int).default(Default::Int(1)).about(&[
        "How many tries in a row must hold. At most O(probes[].tries).",
    ]),
    Opt::new("timeout", Kind::Float).default(Default::Float(5.0)).about(&["Seconds for one try."]),
    // http, prometheus, alerts
    Opt::new("url", Kind::Str).about(&[
        "For V(http): what to ask for. For V(prometheus) and V(alerts): the server, such as V(http://127.0.0.1:9090).",
    ]),
    Opt::new("headers", Kind::Dict).secret().about(&[
        "For V(http), V(prometheus), V(alerts): headers to send, such as C(Host). They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
    Opt::new("connect_to", Kind::Str).about(&[
        "For V(http), V(prometheus), V(alerts): an address and a port, such as V(127.0.0.1:8443), to connect to in place of the URL's. Its name is still what is asked for, and what the certificate must be for.",
    ]),
    Opt::new("socket", Kind::Path).about(&[
        "For V(http): a socket of this machine to connect to in place of the URL's host, which is only a name then.",
    ]),
    Opt::new("ca_file", Kind::Path).about(&[
        "For V(http), V(prometheus), V(alerts): a PEM file of the authorities to trust in place of the machine's own.",
    ]),
    Opt::new("insecure", Kind::Bool).about(&[
        "For V(http), V(prometheus), V(alerts): take any certificate. A warning says so each time. The default is V(false).",
    ]),
    Opt::new("redirects", Kind::Int).about(&[
        "For V(http): how many redirects to follow. The default is V(0): a redirect is just an answer.",
    ]),
    Opt::new("status", Kind::List).elements(Kind::Int).about(&[
        "For V(http): the status codes that are good. The default is any from 200 to 299.",
    ]),
    Opt::new("response_headers", Kind::Dict).about(&[
        "For V(http): headers that the answer must have, and their values.",
    ]),
    Opt::new("json", Kind::Dict).about(&[
        "For V(http): fields that the JSON answer must have, and their values, such as C(status.db: up). Types count: C(\"1\") is not C(1).",
    ]),
    Opt::new("text", Kind::Str).about(&[
        "For V(http): what the body must contain. For V(logs), V(pods): what a line that counts contains.",
    ]),
    Opt::new("return_content", Kind::Bool).about(&[
        "For V(http): whether to return the body of the last answer, of which 1 MiB is read. The default is V(false).",
    ]),
    Opt::new("release", Kind::Str).about(&[
        "For V(http): the release that the answer must be of, as a commit SHA.",
    ]),
    Opt::new("release_field", Kind::Str).about(&[
        "For V(http): the field of the JSON answer that must hold O(probes[].release), such as V(build.sha).",
    ]),
    Opt::new("release_header", Kind::Str).about(&[
        "For V(http): the header of the answer that must hold O(probes[].release), such as V(X-Release).",
    ]),
    // tcp
    Opt::new("host", Kind::Str).about(&["For V(tcp): a name or an address."]),
    Opt::new("port", Kind::Int).about(&["For V(tcp), V(listener): the port."]),
    Opt::new("pidfile", Kind::Path).about(&[
        "For V(listener): a file with the pid of the process that was started. It, its descendants, and all of its session may hold the port.",
    ]),
    // command
    Opt::new("argv", Kind::List).elements(Kind::Str).about(&[
        "For V(command): the program and its arguments. No shell.",
    ]),
    Opt::new("rc", Kind::List).elements(Kind::Int).about(&[
        "For V(command): the exit codes that are good. The default is V(0).",
    ]),
    Opt::new("stdout", Kind::Str).about(&[
        "For V(command): what it must print. C(incus exec) loses output now and then on a busy machine: give such a probe O(probes[].tries).",
    ]),
    Opt::new("environment", Kind::Dict).secret().about(&[
        "For V(command): variables for the program, which else has C(PATH), C(HOME), C(TZ) and the C locale alone. They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
    // docker, compose, incus, pct, restarts, logs
    Opt::new("containers", Kind::List).elements(Kind::Str).about(&[
        "For V(docker), V(restarts): names of Docker containers.",
    ]),
    Opt::new("container", Kind::Str).about(&["For V(logs): the name of a Docker container."]),
    Opt::new("project", Kind::Str).about(&[
        "For V(compose): the project. For V(incus), and V(logs) inside of an instance: the Incus project.",
    ]),
    Opt::new("services", Kind::List).elements(Kind::Str).about(&[
        "For V(compose): the services that must be healthy. The default is all that have a container; one that has ended is not healthy.",
    ]),
    Opt::new("count", Kind::Int).about(&["For V(compose): how many containers there must be, exactly."]),
    Opt::new("instance", Kind::Str).about(&[
        "For V(incus): the instance. For V(logs): the Incus instance that O(probes[].path) is in.",
    ]),
    Opt::new("vmid", Kind::Int).about(&[
        "For V(pct): the container. For V(logs): the Proxmox container that O(probes[].path) is in.",
    ]),
    Opt::new("node", Kind::Str).about(&["For V(pct): the Proxmox node. The default is this machine."]),
    // disk, logs
    Opt::new("path", Kind::Path).about(&[
        "For V(disk): a path on the filesystem. For V(logs): the file.",
    ]),
    Opt::new("nearest", Kind::Bool).about(&[
        "For V(disk): while O(probes[].path) is not there, ask for the nearest folder above it, in which it will be made. The default is V(false): a filesystem that is not mounted has failed.",
    ]),
    // unit, restarts, logs
    Opt::new("unit", Kind::Str).about(&[
        "For V(unit), V(restarts), V(logs): the systemd unit. For V(listener): the unit with its suffix, such as C(shop.service); any process of its control group may hold the port.",
    ]),
    Opt::new("state", Kind::List).elements(Kind::Str).about(&[
        "For V(unit): the C(ActiveState) that is good. The default is V(active).",
    ]),
    Opt::new("max_restarts", Kind::Int).about(&[
        "For V(unit): how often systemd may have restarted it since O(baseline). The default is not to look.",
        "For V(pods): how often their containers may be restarted, together, since O(baseline), and those of a newer pod at all; without a baseline in O(probes[].window). The default is V(0).",
    ]),
    // prometheus
    Opt::new("query", Kind::Str).about(&[
        "For V(prometheus): the query. Each series that it gives must hold; none is a failure, and so is C(NaN).",
    ]),
    Opt::new("min", Kind::Float).about(&[
        "For V(prometheus): the least value that is good.",
        "For V(logs), in place of O(probes[].max): how many new lines must match, at least. It holds as soon as so many do; a file that is missing has no lines yet. Its O(baseline) is made right before what writes the log is started, so that lines of an earlier start do not count.",
    ]),
    Opt::new("max", Kind::Float).about(&[
        "For V(prometheus): the greatest value that is good.",
        "For V(http): how many milliseconds the answer may take. The default is whatever O(probes[].timeout) allows.",
        "For V(disk): the share of the space, and of the inodes, that may be used, from V(0) to V(1). The default is V(0.9).",
        "For V(logs): how many new lines may match. For V(restarts): how many there may be. For V(pods): how many new lines of their logs may match; a pod that is newer than O(baseline) has only new lines. The default is V(0).",
    ]),
    Opt::new("max_rise", Kind::Float).about(&[
        "For V(prometheus), V(http), V(disk): by how much the value may be above that of O(baseline). Without one there is nothing to compare with yet.",
        "The value of V(http) is the milliseconds of its answer, that of V(disk) the share that is used.",
    ]),
    Opt::new("max_factor", Kind::Float).about(&[
        "For V(prometheus), V(http), V(disk): how many times the value of O(baseline) it may be.",
    ]),
    Opt::new("min_factor", Kind::Float).about(&[
        "For V(prometheus): how many times the value of O(baseline) it must be at least.",
    ]),
    Opt::new("window", Kind::Float).about(&[
        "For V(prometheus): ask for the value at each step of the last so many seconds, not just now.",
        "For V(logs) without O(probes[].min), V(restarts), V(pods): watch for so many seconds, in each try. The default is V(10).",
    ]),
    Opt::new("for", Kind::Float).about(&[
        "For V(prometheus): fail only when the value was out of bounds for so many seconds without a break. Without it, every step of O(probes[].window) must hold.",
        "The default of O(probes[].window) is the same span.",
    ]),
    Opt::new("step", Kind::Float).about(&[
        "For V(prometheus): seconds between two values in O(probes[].window). The default is V(15).",
    ]),
    Opt::new("min_samples", Kind::Int).about(&[
        "For V(prometheus): how many values O(probes[].window) must have at least. The default is V(1).",
    ]),
    // alerts
    Opt::new("labels", Kind::Dict).about(&[
        "For V(alerts): only alerts with these labels count. For V(pods): the labels of the pods; none is a failure.",
    ]),
    Opt::new("ignore_alerts", Kind::List).elements(Kind::Str).about(&[
        "For V(alerts): names of alerts that do not count, such as V(Watchdog).",
    ]),
    // pods
    Opt::new("namespace", Kind::Str).about(&["For V(pods): their namespace."]),
    Opt::new("context", Kind::Str).about(&["For V(pods): the context of the kubeconfig. There is no default."]),
    Opt::new("kubeconfig", Kind::Path).about(&[
        "For V(pods): the kubeconfig. The default is that of the environment (E(KUBECONFIG)) or of the account's home.",
    ]),
    Opt::new("kubectl", Kind::Path).about(&["For V(pods): the program. The default is the one on C(PATH)."]),
    // logs
    Opt::new("regex", Kind::Str).about(&[
        "For V(logs), V(pods): what a line that counts matches. C(\\w), C(\\d) and C(\\b) are about ASCII.",
    ]),
    Opt::new("ignore", Kind::Str).about(&["For V(logs), V(pods): lines that match this do not count."]),
];

pub const MODULE: Module = Module {
    name: "health_gate",
    short: "Let a deploy go on only when everything is well",
    about: &[
        "Asks many things side by side under one deadline, and fails unless they hold: URLs, ports, commands, containers, disks, units, metrics, alerts, logs, restarts.",
        "It fails closed: no answer, no data, C(NaN), a wrong type and a program that is missing are failures.",
        "It observes and judges, and changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[GATE],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[
        "In check mode nothing is asked: each probe is C(not evaluated).",
        "Probes for GitLab, Nextcloud, Traefik, and for metrics in Prometheus come with the role C(reversible.deploy.health_probes), as data.",
        "Lines of logs and of what programs print are shown, cut short. Where secrets may stand in them, give the task C(no_log).",
        "Containers and units are asked about through C(docker), C(incus), C(pvesh), C(pct), C(systemctl) and C(journalctl) on the target.",
    ],
    seealso: &["reversible.deploy.haproxy_color_switch"],
    examples: include_str!("examples.yml"),
    returns: &[RESULT],
};

const RESULT: &[Return] = &[
    Return::new(
        "msg",
        Kind::Str,
        "always",
        "How many hold; on failure the names of those that failed, then a sentence for each.",
    )
    .sample(
        r#""1 of 2 probes failed: web; web: expected status 200 to 299, got 503 (asked 3 times)""#,
    ),
    Return::new(
        "probes",
        Kind::List,
        "always",
        "The probes, in the order in which they were given.",
    )
    .contains(&[
        Return::new("name", Kind::Str, "always", "Its name."),
        Return::new("kind", Kind::Str, "always", "Its kind."),
        Return::new("ok", Kind::Bool, "always", "Whether it held, or null in check mode."),
        Return::new("tries", Kind::Int, "always", "How often it was asked."),
        Return::new("answer", Kind::Str, "always", "The last answer, or null when there was none.")
            .sample(r#""status 200, 15 bytes""#),
        Return::new("milliseconds", Kind::Float, "always", "How long the last try took."),
        Return::new("why", Kind::Str, "always", "Why it failed, or null."),
        Return::new("value", Kind::Float, "always", "The number that was measured, or null."),
        Return::new(
            "content",
            Kind::Str,
            "when it was asked for and something answered",
            "The body of the last answer.",
        ),
        Return::new(
            "seen",
            Kind::Dict,
            "always",
            "What a later run with this one as its O(baseline) counts from.",
        ),
    ]),
    Return::new("failed_probes", Kind::List, "always", "The names of the probes that failed.")
        .sample(r#"["web"]"#),
    Return::new("held", Kind::Int, "always", "How many held."),
    Return::new("required", Kind::Int, "always", "How many had to."),
    Return::new(
        "reason",
        Kind::Str,
        "failure",
        "A stable code for why it failed: V(gate_failed), or V(bad_options).",
    )
    .sample(r#""gate_failed""#),
];
