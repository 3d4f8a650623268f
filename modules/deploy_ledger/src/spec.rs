//! What the options of `deploy_ledger` are called and what is said about them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

pub const WHERE: &[Opt] = &[
    Opt::new("app", Kind::Str).required().about(&[
        "The name of the app: letters in lower case, digits, C(.), C(_) and C(-).",
    ]),
    Opt::new("env", Kind::Str).required().about(&[
        "The environment, such as V(staging) or V(prod); written like O(app).",
    ]),
    Opt::new("path", Kind::AbsolutePath).about(&[
        "The folder of the ledger. It must be root's, on a path that no one else can write to, and outside of everything that can be rolled back.",
        "The default is C(/var/lib/reversible/<app>-<env>).",
    ]),
];

pub const CAP: &[Opt] = &[
    Opt::new("revert_cap", Kind::Int).default(Default::Int(3)).about(&[
        "When so many deploys have gone back by themselves within O(revert_window), another one is refused until a person passes C(unlock). V(0) for no limit.",
        "It never keeps a run from going back.",
    ]),
    Opt::new("revert_window", Kind::Int).default(Default::Int(86400)).about(&["In seconds."]),
];

const STATES: &[&str] = &[
    "open",
    "phase",
    "restore_point",
    "heartbeat",
    "revert",
    "closed",
    "void",
    "report",
    "compacted",
    "fence_lowered",
];

const RUN: &[Opt] = &[
    Opt::new("deploy_id", Kind::Str).about(&[
        "The unique id of the deploy: UTC time and four hex digits, such as V(20261121t084500z-7f3a). For every state but V(compacted).",
        "It is the fence too: once a newer deploy was opened, an older one can record nothing more. Only O(state=void) and O(state=report) are no acts of the deploy.",
        "An id that is more than a day ahead of the target's clock is refused, as it would lock out every right one. A target whose clock is that far behind its own fence warns of it and refuses none.",
    ]),
    Opt::new("state", Kind::Str).required().choices(STATES).about(&[
        "V(open) begins the deploy and takes the lease of the app and environment.",
        "V(phase) appends what happened in a phase.",
        "V(restore_point) appends what was captured in a layer.",
        "V(heartbeat) appends that the run is alive. Any other record says so too.",
        "V(revert) records that the run goes back by itself.",
        "V(closed) ends the deploy with its outcome and gives the lease back.",
        "V(void) marks a deploy whose release must not be gone back to.",
        "V(report) writes the report of the deploy, and the metrics: O(report_markdown), O(report_html), O(metrics_file). The record stays as it is.",
        "V(compacted) makes the ledger shorter by O(retain).",
        "V(fence_lowered) lowers each fence that is more than a day ahead of the target's clock to O(deploy_id), or to a newer deploy that is recorded there: in all state folders below F(/var/lib/reversible), of whatever app and module, or in O(path) alone. It wants O(confirm). The playbook C(reversible.deploy.lower_fences) does it on every host of an app.",
    ]),
    Opt::new("next_id", Kind::Bool).default(Default::Bool(false)).about(&[
        "Whether a new deploy whose O(deploy_id) is below one that was opened here before is opened one second after that one, instead of being refused: two runs fell into one second, or this controller's clock is behind. For O(state=open).",
        "The run then goes on under the RV(deploy_id) of the result.",
    ]),
    Opt::new("release", Kind::Str).about(&["The release that is deployed, as a commit SHA. For O(state=open)."]),
    Opt::new("by", Kind::Str).default(Default::Str("")).about(&[
        "Who or what runs the deploy, as the next one should read it when this one is in its way. For O(state=open).",
    ]),
    Opt::new("lease", Kind::Count).default(Default::Int(1800)).about(&[
        "After how many seconds without a record this deploy counts as abandoned; longer than its longest task. For O(state=open).",
        "An abandoned deploy still holds the lease: only O(take_over) gets past it.",
    ]),
    Opt::new("take_over", Kind::Str).about(&[
        "The id of the deploy that holds the lease and is known to be dead. For O(state=open).",
        "It is refused when another deploy holds the lease by then.",
    ]),
    Opt::new("back_to", Kind::Str).about(&[
        "In a rollback the id of the deploy to whose restore points it goes back. For O(state=open).",
    ]),
    Opt::new("purpose", Kind::Str).default(Default::Str("deploy")).choices(&["deploy", "rollback", "maintenance", "lock"]).about(&[
        "What the run is for. For O(state=open).",
        "V(rollback) locks deploys, unless it fails and leaves everything as it was: the next one would bring back what was bad. V(maintenance) is any other run that needs the lease, and leaves the release as it is. V(lock) locks deploys for the O(reason) that is given: a migration by hand, a holiday. The playbooks C(reversible.deploy.lock) and C(reversible.deploy.unlock) open such runs.",
    ]),
    Opt::new("unlock", Kind::Str).about(&[
        "The id of the run after which deploys are locked: a rollback, one whose O(purpose) is V(lock), or the last of those that O(revert_cap) counts. Only with it another deploy is opened, which unlocks those after it as well; a run for V(maintenance) with it does nothing else. For O(state=open).",
    ]),
    Opt::new("config_commit", Kind::Str).about(&[
        "The commit of the configuration repository that the run was started from, so that a rollback can say which configuration went with a release. For O(state=open).",
    ]),
    Opt::new("config_dirty", Kind::Bool).about(&[
        "Whether that repository held changes that are in no commit. For O(state=open).",
    ]),
    Opt::new("config_remote", Kind::Str).about(&[
        "Where that repository can be fetched, without a password. For O(state=open).",
    ]),
    Opt::new("reason", Kind::Str).about(&[
        "Why the deploy is void, is made, or goes back. For O(state=void), O(state=open) and O(state=revert).",
    ]),
    Opt::new("phase", Kind::Str).about(&["The name of the phase. For O(state=phase)."]),
    Opt::new("status", Kind::Str).default(Default::Str("done")).choices(&["started", "done", "failed"]).about(&[
        "The status of the phase. For O(state=phase).",
    ]),
    Opt::new("data", Kind::Dict).about(&[
        "What belongs to the record of the phase or restore point. No secrets.",
        "The report knows these keys of a module's result, and shows any other as it is: C(plan), C(loss), C(undo), C(flip), C(probes) with C(held) and C(required), C(msg), C(reason), C(cmd), C(rc), C(stdout), C(stderr).",
    ]),
    Opt::new("outcome", Kind::Str).choices(&["done", "failed_reverted", "failed_not_reverted"]).about(&[
        "How the deploy ended. For O(state=closed).",
    ]),
    Opt::new("color", Kind::Str).choices(&["blue", "green"]).about(&[
        "The colour that is active at the end. For O(state=closed).",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "How many of the newest deploys are kept whole. For O(state=compacted).",
        "Also kept are the open deploy, the current and the last good one, and of each one that is void or went back by itself that it did.",
    ]),
];

const RESTORE_POINT: &[Opt] = &[
    Opt::new("layer", Kind::Str).about(&[
        "Where it was captured: V(container), V(dataset), V(compose), V(database), V(color), V(release) or a word of your own. For O(state=restore_point).",
    ]),
    Opt::new("name", Kind::Str).about(&["The name of the restore point. For O(state=restore_point)."]),
    Opt::new("guid", Kind::Str).about(&["What distinguishes it from another one of the same name. For O(state=restore_point)."]),
    Opt::new("digest", Kind::Str).about(&["The digest of what was captured. For O(state=restore_point)."]),
    Opt::new("host", Kind::Str).about(&["The host that it lies on. For O(state=restore_point)."]),
    Opt::new("cost", Kind::Dict).about(&[
        "What going back to it costs, as far as it is known: bytes, seconds, sentences. For O(state=restore_point).",
    ]),
];

pub const LAYERS: &[Opt] = &[Opt::new("layers", Kind::Dict).about(&[
    "What was observed of each layer just now, by the layer's name: C(holds) (a list of what is there: names, guids, digests, or dictionaries with C(name), C(guid), C(digest)), C(open) (whether one could go back in it), C(why) (why not), and C(silent) (by host, why it did not answer).",
    "An entry of C(holds) may name its C(host), and as C(word) what the layer's own module is asked for.",
    "From it comes whether one can go back to restore points now; the metrics say it of the newest of each layer.",
])];

pub const FLIPS: &[Opt] = &[Opt::new("flips", Kind::List).elements(Kind::Dict).about(&[
    "RV(reversible.deploy.haproxy_color_switch_info#module:history) of the load balancers. A fast rollback is made also while the ledger does not answer, and only they remember it.",
    "A flip whose C(deploy_id) is newer than every deploy of the ledger counts as the rollback that it was; it locks deploys as any other. One that a run has taken back itself does not.",
])];

const FILES: &[Opt] = &[
    Opt::new("outcome_file", Kind::AbsolutePath).about(&[
        "A file for workflows. O(state=open) removes it, O(state=closed) writes V(done), V(failed_reverted) or V(failed_not_reverted) into it: while it is missing, the run has not ended.",
    ]),
    Opt::new("metrics_file", Kind::AbsolutePath).about(&[
        "A file for the textfile collector of node-exporter, ending in C(.prom); its folder must be there.",
        "It is written after each record. Give it to every task, then C(DeployAbandoned) knows of an open run as well.",
    ]),
    Opt::new("report_markdown", Kind::AbsolutePath).about(&["Where the report goes, as Markdown. For O(state=report)."]),
    Opt::new("report_html", Kind::AbsolutePath).about(&[
        "Where the report goes, as one page of HTML that needs nothing else. For O(state=report).",
    ]),
    Opt::new("release_url", Kind::Str).about(&[
        "Where a release can be looked at, for links in the report; C({sha}), C({app}) and C({env}) are filled in. For O(state=report) and O(bring_to).",
    ]),
];

/// What the action plugin does (plugin_utils/deploy_ledger.py).
const CONTROLLER: &[Opt] = &[
    Opt::new("required", Kind::Bool).default(Default::Bool(true)).about(&[
        "Whether a ledger that cannot be reached, read or written fails the task.",
        "With V(false), for a rescue, it is a warning: a rollback must not be stopped by its own record.",
        "With O(state=open) and V(false) a run that the ledger refuses fails all the same: another one holds the lease, has superseded it, or has ended under its id.",
    ]),
    Opt::new("config_dir", Kind::Str).about(&[
        "A folder on the controller, in the repository of the configuration: O(config_commit), O(config_dirty) and O(config_remote) are found there. Without git or a repository nothing is recorded of it. For O(state=open).",
    ]),
    Opt::new("outcome_to", Kind::Str).about(&["As O(outcome_file), but a file on the controller."]),
    Opt::new("bring_to", Kind::Str).about(&[
        "Where on the controller the report goes, without an ending: Markdown ending in C(.md), a page ending in C(.html). For O(state=report) and O(state=closed).",
        "A Markdown file of this deploy that is there stays as it is, since somebody may have written into it. Beside one of another deploy the id is added to the name.",
    ]),
];

const OURS: &[Return] = &[
    Return::new(
        "deploy_id",
        Kind::Str,
        "when O(state=open)",
        "The id under which the deploy is open: another one than was given only with O(next_id).",
    ),
    Return::new(
        "stays",
        Kind::List,
        "when O(state=open)",
        "The migrations of the release that is in place, which a rollback does not undo.",
    )
    .contains(&[
        Return::new("deploy_id", Kind::Str, "always", "The deploy that ran it."),
        Return::new("release", Kind::Str, "always", "Its release."),
        Return::new(
            "compatible_back_to",
            Kind::Str,
            "always",
            "The oldest release that can run with its schema, as the deploy said, or null.",
        ),
    ]),
    Return::new(
        "taken",
        Kind::Dict,
        "when O(state=open)",
        "By colour, the newest of the last deploys that went into it, C(deploy_id) and C(release), but for those that failed and went back before any host held their release; from the C(color) in the data of the phase V(preflight), and C(installed), hosts, in that of the phase that failed.",
    ),
    Return::new("report", Kind::Str, "with O(bring_to)", "The Markdown on the controller."),
    Return::new(
        "unrecorded",
        Kind::Str,
        "when O(required=false) and it was not recorded",
        "Why the ledger does not know of it.",
    ),
];

pub const MODULE: Module = Module {
    name: "deploy_ledger",
    short: "Record deploys, and let one at a time change an app",
    about: &[
        "The ledger is the record of the deploys of one app in one environment: when they were opened, what each phase did and captured, how they ended, and which are void.",
        "An open deploy holds the lease of the app and environment. A second run is refused with the first one's id, since when it runs and in which phase it is.",
        "From the record come the report of a deploy, also of one that died, the metrics, and the outcome for workflows.",
        "The same task again changes nothing, but for a heartbeat. Nothing that was recorded is ever rewritten.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, RUN, CAP, RESTORE_POINT, LAYERS, FLIPS, FILES, CONTROLLER, change::CONSENT],
    rules: &[
        Rule::RequiredIf("state", "open", &["deploy_id"]),
        Rule::RequiredIf("purpose", "lock", &["reason"]),
        Rule::RequiredIf("state", "phase", &["deploy_id", "phase"]),
        Rule::RequiredIf("state", "restore_point", &["deploy_id", "layer", "name"]),
        Rule::RequiredIf("state", "heartbeat", &["deploy_id"]),
        Rule::RequiredIf("state", "revert", &["deploy_id"]),
        Rule::RequiredIf("state", "closed", &["deploy_id", "outcome"]),
        Rule::RequiredIf("state", "void", &["deploy_id", "reason"]),
        Rule::RequiredIf("state", "report", &["deploy_id"]),
        Rule::RequiredIfAny(
            "state",
            "report",
            &["report_markdown", "report_html", "bring_to", "metrics_file"],
        ),
        Rule::RequiredIf("state", "compacted", &["retain"]),
        Rule::RequiredIf("state", "fence_lowered", &["deploy_id"]),
        Rule::RequiredBy("config_dirty", &["config_commit"]),
        Rule::RequiredBy("config_remote", &["config_commit"]),
        Rule::RequiredBy("layers", &["metrics_file"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "The ledger is a file of one JSON object a line, F(ledger.jsonl), only appended to and synced. A last line that was torn by a crash is reported and left out.",
        "A ledger with a line that cannot be read, or that a newer version wrote, is neither written to nor made shorter.",
        "In a ledger of over 1 MiB the inside of an older deploy's lines is looked at when that deploy is asked for, and before compacting.",
        "Compacting writes the lines that are kept, as they are, to a new file and renames it.",
        "The report of a run that is open or dead says so, and since when it is silent.",
    ],
    seealso: &["reversible.deploy.deploy_ledger_info"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, OURS],
};
