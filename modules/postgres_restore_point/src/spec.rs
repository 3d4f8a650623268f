//! The options of `postgres_restore_point` and `postgres_restore_point_info`, and what they return. `options.rs` makes
//! typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const WHERE: &[Opt] = &[
    Opt::new("database", Kind::Str).required().about(&["The database, by the name that applications connect to."]),
    Opt::new("host", Kind::Str).about(&[
        "The folder of the server's socket, or a host name. What the client programs take by default without it.",
        "The server must run on the target itself for its free disk space to be seen.",
    ]),
    Opt::new("port", Kind::Positive).about(&["The port, which is also part of the socket's name."]),
    Opt::new("user", Kind::Str).about(&[
        "The user of the database, who must be a superuser. O(os_user) without it.",
        "There is no option for a password: C(.pgpass) in the home of O(os_user) is read.",
    ]),
    Opt::new("os_user", Kind::Str).default(Default::Str("postgres")).about(&[
        "The account of the target that the client programs run as.",
    ]),
    Opt::new("programs", Kind::AbsolutePath).about(&[
        "The folder of C(psql), C(pg_dump) and C(pg_restore), of the server's own major version.",
        "They are found where the packages of Debian and of PostgreSQL put them, then on PATH.",
    ]),
    Opt::new("maintenance_database", Kind::Str).default(Default::Str("postgres")).about(&[
        "Another database of the same cluster, which is connected to while O(database) is renamed.",
    ]),
    Opt::new("app", Kind::Str).about(&[
        "The app (with its environment, such as V(shop-prod)) that the database belongs to. It names O(state_dir).",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of this module's own records. It must be root's, on a path that no one else can write to.",
        "The default is C(/var/lib/reversible/postgres-<app>), and C(/var/lib/reversible/postgres) without O(app). Each database of each server has a folder of its own in it.",
    ]),
];

const COUNT: &[Opt] = &[
    Opt::new("count", Kind::Str).default(Default::Str("estimate")).choices(&["exact", "estimate", "none"]).about(&[
        "How RV(ignore:written) is found. V(estimate) takes PostgreSQL's own counters, at once. V(none) does without.",
        "V(exact) compares the rows of the live database with those of the copy, and counts by table how many were inserted, updated and deleted. Rows of a table without a primary key are compared as a whole: one that was updated counts as one deleted and one inserted.",
        "Columns that only one of the two has are not compared: a column that was added since makes no row an updated one.",
        "For that the copy accepts connections for the moment in which our sessions connect. No other task on this database runs meanwhile.",
    ]),
    Opt::new("count_timeout", Kind::Seconds).default(Default::Float(60.0)).about(&[
        "For how many seconds rows may be compared with O(count=exact). The smallest tables come first, and what is not compared by then is named, with an estimate.",
    ]),
];

const ROWS: &[Opt] = &[
    Opt::new("rows_dir", Kind::AbsolutePath).about(&[
        "A new folder, accessible to root only, for the rows that differ between the live database and a copy, so that they can be restored. Nothing is written in check mode.",
        "By table and kind a CSV file: V(inserted) and V(updated) as they are in the live database, V(updated_before) and V(deleted) as they are in the copy. C(COPY ... FROM) reads one with C(FORMAT csv, HEADER, NULL '\\N') and the columns that C(manifest.json) names, which is written last: without it the folder is incomplete.",
        "O(count_timeout) limits it. Tables that are not compared by then, and those of which more than a million rows differ, are named and not written.",
    ]),
    Opt::new("rows_of", Kind::Str).about(&[
        "With O(rows_dir) the id of the restore point or parked state that the live database is compared with. The newest restore point without it.",
        "After a rollback its V(deleted) and V(updated_before) of the parked state are what was written before it.",
    ]),
];

const INTO: &[Opt] = &[
    Opt::new("compare_schema", Kind::List).elements(Kind::Str).about(&[
        "Two databases whose schemas are compared: O(database), or one of its restore points, parked states and clones by their names.",
        "Compared are schemas, extensions, tables, columns, constraints, indexes, sequences, functions, triggers, policies and types, by PostgreSQL's own definitions, and the rows of the tables in which the usual tools note which migrations were run, such as C(alembic_version) and C(django_migrations).",
        "A view, a check or a default can be written differently in a restore point than in the database that was dumped. A clone has the same text as its restore point.",
        "A restore point or parked state accepts connections for the moment in which our session connects. No other task on this database runs meanwhile.",
    ]),
    Opt::new("checks", Kind::List).elements(Kind::Dict).options(CHECK).default(Default::List(&[])).about(&[
        "Queries whose results are expected. Each runs in a transaction of its own that is read only, as the owner of the database, and with an empty C(search_path): name tables with their schema.",
        "A check that fails does not fail the task: see RV(checks).",
    ]),
    Opt::new("checks_on", Kind::Str).about(&[
        "The database in which O(checks) run: a clone, by its name. O(database) without it.",
    ]),
    Opt::new("checks_timeout", Kind::Seconds).default(Default::Float(60.0)).about(&[
        "For how many seconds each of O(checks) may run.",
    ]),
];

const CHECK: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["What is checked, for the result."]),
    Opt::new("sql", Kind::Str)
        .required()
        .about(&["One query. The first column of its first row counts, as text."]),
    Opt::new("expect", Kind::Str)
        .default(Default::Str("true"))
        .about(&["The text that is expected. V(null) stands for NULL, and for no row."]),
];

const WHAT: &[Opt] = &[
    Opt::new("state", Kind::Str).default(Default::Str("present")).choices(&["present", "rolled_back", "cloned", "absent"]).about(&[
        "V(present) makes a restore point, unless it is there: a copy of the database in the same cluster, from one snapshot, checked, and closed to everybody.",
        "V(rolled_back) makes the restore point of O(deploy_id) live by a swap of names, or with O(parked) a parked state. What was live is parked as a whole.",
        "V(cloned) makes a clone of the restore point of O(deploy_id), unless it is there: a database of its own, C(<database>__rehearsal_<id>), to try a migration in. It belongs to O(clone_owner), and so does all that is in it. Clones of other restore points, which killed runs have left, are removed first.",
        "V(absent) removes the restore point of O(deploy_id), the state named by O(parked), or the clone named by O(clone). With O(retain) alone it only prunes.",
    ]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. For O(state=present) a run with an older id than the last one seen is refused.",
        "Without it a restore point is given an id.",
    ]),
    Opt::new("parked", Kind::Str).about(&[
        "The id of a parked state: the O(rollback_id) of the rollback that parked it, which the result and M(reversible.deploy.postgres_restore_point_info) show.",
    ]),
    Opt::new("clone", Kind::Str).about(&[
        "With O(state=absent) the id of a clone, which is that of its restore point. Its sessions are ended. It needs no consent.",
    ]),
    Opt::new("clone_owner", Kind::Str).about(&[
        "For O(state=cloned) the role that the clone is for. It must exist, may log in, and cannot connect to O(database): the task is refused if it can, also because everybody can (C(PUBLIC)), and says what to revoke.",
        "A role with C(SUPERUSER), C(CREATEROLE), C(CREATEDB), C(REPLICATION) or C(BYPASSRLS), or which is a member of another one, is refused as well.",
    ]),
    Opt::new("release", Kind::Str).about(&["The release that is live when the restore point is made. It is recorded."]),
    Opt::new("jobs", Kind::Positive).default(Default::Int(2)).about(&[
        "How many tables are dumped, and restored, at the same time.",
    ]),
    Opt::new("work_dir", Kind::AbsolutePath).default(Default::Str("/var/tmp")).about(&[
        "Where the dump lies until it is restored, in a folder that only O(os_user) can enter.",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "How many restore points of this database are kept, and how many parked states. Older ones are removed, after the new one was seen to be there. Clones that nobody is connected to are removed as well.",
        "Only databases that this module has made count and are removed: recognised by their comment and our record of their OID. One with connections is kept, with a warning.",
    ]),
    Opt::new("keep", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Deploy ids of restore points and ids of parked states that are never removed.",
    ]),
    Opt::new("swap_timeout", Kind::Seconds).default(Default::Float(10.0)).about(&[
        "For how many seconds sessions may be shut out while they are ended and the names are swapped. After that the database is as it was before.",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(60.0)).about(&[
        "For how many seconds to wait for another task of this module on the same database.",
    ]),
    Opt::new("task_timeout", Kind::Seconds).default(Default::Float(3600.0)).about(&[
        "For how many seconds the dump may take, and the restore.",
    ]),
];

pub const MODULE: Module = Module {
    name: "postgres_restore_point",
    short: "Make a restore point of a PostgreSQL database before a deploy, and go back to it",
    about: &[
        "Copies a database while it is used: it is dumped from one snapshot and restored at once into another database of the cluster, which refuses connections. That database is the restore point.",
        "Going back is a swap of two names. What was live is parked under another name, so that going back destroys nothing and can be undone.",
        "What would stop half way is refused before the first change: no room, programs of another major version, what a dump cannot carry, prepared transactions, a server in recovery.",
        "A run that was killed is finished or taken back by the next one.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, WHAT, COUNT, change::ROLLBACK_ID, change::CONSENT],
    rules: &[
        Rule::RequiredIfAny("state", "rolled_back", &["deploy_id", "parked"]),
        Rule::RequiredIf("state", "cloned", &["deploy_id", "clone_owner"]),
        Rule::RequiredIfAny("state", "absent", &["deploy_id", "parked", "clone", "retain"]),
        Rule::MutuallyExclusive(&["deploy_id", "parked", "clone"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Needs root and PostgreSQL 15 or newer on the target, and a superuser of it.",
        "Capturing takes as much disk as the database for the dump in O(work_dir), and twice as much where the server has its data: for the copy and for its WAL, which goes to replicas and archives as well.",
        "A clone takes as much disk as the restore point, and as much again for its WAL, where the server has its data.",
        "While it is dumped, an C(ALTER TABLE) waits for the dump, and whatever uses that table waits behind it. The dump has ended when this module has.",
        "A restore runs what checks rows, and a query what is constant in an index: a database in which a constraint, a generated column, a partition key, an index, statistics or an implicit cast call a function of a role that is no superuser is refused, since that role would become one. A superuser can take such a function over.",
        "A database with extensions other than those that come with PostgreSQL, with foreign servers, event triggers or subscriptions is refused by name: they have not been tested with this.",
        "In a swap all sessions of the database are ended, and new ones refused for a moment. Applications must connect again by themselves.",
        "No sequence of what becomes live stands before that of what is parked, so no number is given out twice.",
        "Sessions of a physical replica do not notice the swap: they read the parked database until they connect again. Logical slots stay with the parked database.",
        "Without O(count=exact) what was written since is an estimate by PostgreSQL's own counters: they count work that was rolled back, miss TRUNCATE, and start again from zero after a crash.",
    ],
    seealso: &[
        "reversible.deploy.postgres_restore_point_info",
        "reversible.deploy.zfs_pre_deploy",
        "reversible.deploy.deploy_ledger",
    ],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, DONE],
};

const DONE: &[Return] = &[
    Return::new(
        "deploy_id",
        Kind::Str,
        "success",
        "The id of the restore point that this was about, or null.",
    ),
    Return::new(
        "restore_point",
        Kind::Str,
        "success",
        "The database that is, or was, this restore point, or null.",
    )
    .sample(r#""shop__before_20261121t084500z-7f3a""#),
    Return::new("clone", Kind::Str, "for O(state=cloned)", "The database that is the clone.")
        .sample(r#""shop__rehearsal_20261121t084500z-7f3a""#),
    Return::new("parked", Kind::Dict, "for a rollback", "What is parked, or would be.").contains(
        &[
            Return::new("id", Kind::Str, "always", "Its id, for O(parked)."),
            Return::new("database", Kind::Str, "always", "The name that it has."),
        ],
    ),
    Return::new(
        "written",
        Kind::Dict,
        "for a rollback",
        "What was written since the restore point, which is parked; null if that is unknown.",
    )
    .contains(WRITTEN),
    Return::new(
        "sessions",
        Kind::List,
        "for a rollback",
        "The sessions that are ended, or would be, as user and application.",
    )
    .sample(r#"["shop: checkout (4)"]"#),
    Return::new(
        "storage",
        Kind::Dict,
        "for O(state=present)",
        "Where the cluster's files lie; null when its server is not seen on the target.",
    )
    .contains(STORAGE),
];

const STORAGE: &[Return] = &[
    Return::new("data_directory", Kind::Str, "always", "The data directory, as the server names it."),
    Return::new("places", Kind::List, "always", "Where it lies, where its WAL lies, and each tablespace.").contains(&[
        Return::new("path", Kind::Str, "always", "The folder as the target sees it: for a server in a container the folder of its volume."),
        Return::new("source", Kind::Str, "always", "The device or dataset that it is mounted from."),
        Return::new("filesystem", Kind::Str, "always", "The type of its file system."),
    ]),
];

const WRITTEN: &[Return] = &[
    Return::new("inserted", Kind::Int, "always", "Rows that were inserted."),
    Return::new("updated", Kind::Int, "always", "Rows that were updated."),
    Return::new("deleted", Kind::Int, "always", "Rows that were deleted."),
    Return::new(
        "tables",
        Kind::Dict,
        "always",
        "The same for each table, as a list of three numbers.",
    ),
    Return::new(
        "wal_bytes",
        Kind::Int,
        "always",
        "Bytes of WAL that the whole cluster has written since, or null.",
    ),
    Return::new(
        "exact",
        Kind::Bool,
        "always",
        "Whether all rows were compared. Otherwise the numbers are estimates where C(estimates) says so, and all of them where it is empty.",
    ),
    Return::new(
        "estimates",
        Kind::Dict,
        "always",
        "With O(count=exact), by table why it was not compared. Its numbers in C(tables) are estimates, or missing.",
    ),
];

pub const INFO: Module = Module {
    name: "postgres_restore_point_info",
    short: "List the restore points of a PostgreSQL database",
    about: &[
        "Lists the restore points and parked states of a database, whether a rollback to each is possible, and an estimate of what it would cost.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, COUNT, ROWS, INTO],
    rules: &[Rule::RequiredBy("rows_of", &["rows_dir"])],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[],
    seealso: &["reversible.deploy.postgres_restore_point"],
    examples: include_str!("examples_info.yml"),
    returns: &[SEEN],
};

const SEEN: &[Return] = &[
    Return::new("rows", Kind::Dict, "success", "With O(rows_dir) what was written there, or null.").contains(&[
        Return::new("folder", Kind::Str, "always", "The folder."),
        Return::new("database", Kind::Str, "always", "The live database."),
        Return::new("beside", Kind::Str, "always", "The database that it was compared with."),
        Return::new("tables", Kind::Dict, "always", "By table its files, each with C(file), C(kind), C(rows), C(columns), C(key) and C(sha256)."),
        Return::new("missing", Kind::Dict, "always", "By table why nothing of it was written."),
    ]),
    Return::new("restore_points", Kind::List, "success", "The restore points, the oldest first.")
        .contains(&[
            Return::new("deploy_id", Kind::Str, "always", "The deploy."),
            Return::new("database", Kind::Str, "always", "The database that it is."),
            Return::new("oid", Kind::Int, "always", "Its OID."),
            Return::new("time", Kind::Str, "always", "When it was made, in UTC."),
            Return::new("release", Kind::Str, "always", "The release that was live, or null."),
            Return::new("bytes", Kind::Int, "always", "The disk that it takes."),
            Return::new("seconds", Kind::Float, "always", "How long it took to make it."),
            Return::new(
                "ready_to_roll_back",
                Kind::Bool,
                "always",
                "Whether one could go back to it now.",
            ),
            Return::new("why", Kind::List, "always", "Why not, in sentences."),
            Return::new("written", Kind::Dict, "always", "What was written since, or null.")
                .contains(WRITTEN),
        ]),
    Return::new("parked", Kind::List, "success", "The parked states, the oldest first.").contains(
        &[
            Return::new("id", Kind::Str, "always", "The id, for C(parked)."),
            Return::new("database", Kind::Str, "always", "The name that it has."),
            Return::new("oid", Kind::Int, "always", "Its OID."),
            Return::new("time", Kind::Str, "always", "Since when."),
            Return::new("bytes", Kind::Int, "always", "The disk that it takes."),
        ],
    ),
    Return::new("clones", Kind::List, "success", "The clones, the oldest first.").contains(&[
        Return::new("deploy_id", Kind::Str, "always", "The restore point that it was made of, and its id for C(clone)."),
        Return::new("database", Kind::Str, "always", "The database that it is."),
        Return::new("oid", Kind::Int, "always", "Its OID."),
        Return::new("time", Kind::Str, "always", "When it was made, in UTC."),
        Return::new("bytes", Kind::Int, "always", "The disk that it takes."),
        Return::new("owner", Kind::Str, "always", "The role that it belongs to."),
    ]),
    Return::new("schema", Kind::Dict, "success", "With O(compare_schema) how the two differ, or null.").contains(&[
        Return::new("databases", Kind::List, "always", "The names of both."),
        Return::new("same", Kind::Bool, "always", "Whether nothing differs."),
        Return::new("differences", Kind::List, "always", "What differs, 200 at most: C(kind), C(name), and the definition in the C(first) and in the C(second) database, null where it does not exist. Those of functions and views, and the rows that note migrations, are digests."),
        Return::new("more", Kind::Int, "always", "How many more differ."),
        Return::new("digests", Kind::List, "always", "A digest of the schema of each."),
    ]),
    Return::new("checks", Kind::List, "success", "With O(checks) what became of each, or null.").contains(&[
        Return::new("name", Kind::Str, "always", "Its name."),
        Return::new("passed", Kind::Bool, "always", "Whether the result is what was expected."),
        Return::new("expected", Kind::Str, "always", "What was expected."),
        Return::new("got", Kind::Str, "always", "The result, or null."),
        Return::new("error", Kind::Str, "always", "Why there is no result, or null."),
        Return::new("milliseconds", Kind::Int, "always", "How long it took."),
    ]),
    Return::new("live", Kind::Dict, "success", "The database itself, or null.").contains(&[
        Return::new("oid", Kind::Int, "always", "Its OID."),
        Return::new("bytes", Kind::Int, "always", "The disk that it takes."),
        Return::new("sessions", Kind::Int, "always", "How many sessions there are."),
    ]),
    Return::new(
        "server_version",
        Kind::Int,
        "success",
        "The server's version, as PostgreSQL numbers it.",
    )
    .sample("170012"),
    Return::new(
        "storage",
        Kind::Dict,
        "success",
        "Where the cluster's files lie; null when its server is not seen on the target.",
    )
    .contains(STORAGE),
    Return::new(
        "unfinished",
        Kind::Str,
        "success",
        "Since when a run that was killed waits to be finished, or null.",
    ),
];
