use super::*;
use crate::spec::{Kind, Support};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const SERVER: &[Opt] = &[
    Opt::new("name", Kind::Str).required(),
    Opt::new("port", Kind::Int).default(Default::Int(80)),
];

const OPTIONS: &[Opt] = &[
    Opt::new("vmid", Kind::Int).required(),
    Opt::new("state", Kind::Str).default(Default::Str("present")).choices(&["present", "absent"]),
    Opt::new("name", Kind::Str).aliases(&["title"]),
    Opt::new("items", Kind::List).elements(Kind::Int),
    Opt::new("where", Kind::Path).default(Default::Str("~/here")),
    Opt::new("servers", Kind::List).elements(Kind::Dict).options(SERVER),
    Opt::new("answer", Kind::Str).choices(&["yes", "no"]),
    Opt::new("pin", Kind::Int).secret(),
    Opt::new("map", Kind::Dict),
    Opt::new("size", Kind::Bytes),
    Opt::new("wait", Kind::Seconds),
    Opt::new("logs", Kind::Count),
    Opt::new("retain", Kind::Positive),
    Opt::new("folders", Kind::List).elements(Kind::AbsolutePath),
];

const MODULE: Module = Module {
    name: "pct_snapshot",
    short: "",
    about: &[],
    version_added: "0.1.0",
    options: &[OPTIONS],
    rules: &[
        Rule::MutuallyExclusive(&["name", "items"]),
        Rule::RequiredIf("state", "absent", &["name", "size"]),
        Rule::RequiredBy("size", &["name"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[],
    seealso: &[],
    examples: "",
    returns: &[],
};

fn given(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn ok(value: Value) -> Map<String, Value> {
    validate(&MODULE, given(value)).unwrap_or_else(|failure| panic!("{failure}")).0
}

fn refused(value: Value) -> String {
    match validate(&MODULE, given(value)) {
        Ok((values, _)) => panic!("accepted as {values:?}"),
        Err(failure) => failure.msg,
    }
}

#[test]
fn messages_are_those_of_ansible() {
    assert_eq!(refused(json!({})), "missing required arguments: vmid");
    assert_eq!(
        refused(json!({"vmid": 1, "nmae": "x"})),
        "Unsupported parameters for (pct_snapshot) module: nmae. Supported parameters include: \
         answer, folders, items, logs, map, name (title), pin, retain, servers, size, state, vmid, wait, where. Did you mean name?"
    );
    assert_eq!(
        refused(json!({"vmid": "abc"})),
        "argument 'vmid' is of type str and we were unable to convert to int: \"'abc'\" cannot be \
         converted to an int"
    );
    assert_eq!(
        refused(json!({"vmid": 1, "state": "absend"})),
        "value of state must be one of: present, absent, got: absend. Did you mean absent?"
    );
    assert_eq!(
        refused(json!({"vmid": 1, "name": "x", "items": "1,2"})),
        "parameters are mutually exclusive: name|items"
    );
    assert_eq!(
        refused(json!({"vmid": 1, "state": "absent"})),
        "state is absent but all of the following are missing: name, size"
    );
    assert_eq!(
        refused(json!({"vmid": 1, "size": "1G"})),
        "missing parameter(s) required by 'size': name"
    );
    assert_eq!(
        refused(json!({"vmid": 1, "servers": [{"prot": 1}]})),
        "Unsupported parameters for (pct_snapshot) module: servers.prot. Supported parameters \
         include: name, port. Did you mean port?; missing required arguments: name found in servers"
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let msg = refused(json!({"stat": "absent", "items": ["x"]}));
    for part in ["Unsupported parameters", "missing required arguments: vmid", "Elements value"] {
        assert!(msg.contains(part), "{part} in {msg}");
    }
}

#[test]
fn values_are_coerced_and_defaults_filled_in() {
    let values = ok(json!({
        "vmid": "101", "title": 5, "servers": [{"name": "a"}, "name=b port=8"], "answer": false,
    }));
    assert_eq!(values["vmid"], 101);
    assert_eq!(values["name"], "5");
    assert_eq!(values["state"], "present");
    assert_eq!(values["answer"], "no");
    assert_eq!(values["items"], Value::Null);
    assert!(!values["where"].as_str().unwrap_or_default().contains('~'));
    assert_eq!(values["servers"], json!([{"name": "a", "port": 80}, {"name": "b", "port": 8}]));
}

#[test]
fn null_counts_as_not_set() {
    assert_eq!(refused(json!({"vmid": null})), "missing required arguments: vmid");
    assert_eq!(ok(json!({"vmid": 1, "state": null}))["state"], "present");
}

#[test]
fn an_alias_wins_over_the_name_and_is_warned_about() {
    for map in [
        json!({"vmid": 1, "name": "a", "title": "b"}),
        json!({"title": "b", "name": "a", "vmid": 1}),
    ] {
        let (values, warnings) =
            validate(&MODULE, given(map)).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(values["name"], "b");
        assert_eq!(warnings, ["Both option name and its alias title are set."]);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[\\{\\}\\[\\]'\":,= a1TFN\\\\~$.eE_+-]{0,24}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A short run that is always the same; with REVERSIBLE_LONG a long and random one.
fn fuzzing() -> ProptestConfig {
    let (cases, rng_seed) = match std::env::var_os("REVERSIBLE_LONG") {
        Some(_) => (200_000, RngSeed::Random),
        None => (2_000, RngSeed::Fixed(20_261_121)),
    };
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(fuzzing())]

    /// Whatever arrives is either refused in words or gives every option its own type.
    #[test]
    fn no_input_makes_it_panic(values in prop::collection::vec(any_value(), OPTIONS.len())) {
        let map: Map<String, Value> = (OPTIONS.iter().zip(values))
            .map(|(option, value)| (option.name.to_owned(), value))
            .collect();
        match validate(&MODULE, map) {
            Err(failure) => prop_assert!(!failure.msg.is_empty()),
            Ok((values, _)) => {
                prop_assert!(values["vmid"].is_i64());
                prop_assert!(values["state"].is_string());
                prop_assert!(values["items"].is_null() || values["items"].is_array());
                prop_assert!(values["size"].is_null() || values["size"].is_u64());
                prop_assert!(values["map"].is_null() || values["map"].is_object());
            }
        }
    }

    #[test]
    fn malformed_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(failure) = crate::invocation::Request::parse(&bytes, "a file") {
            prop_assert!(failure.msg.starts_with("the arguments in a file are"));
        }
    }
}

#[test]
fn restrictions_beyond_the_type_are_checked() {
    let values =
        ok(json!({"vmid": 1, "wait": "0.5", "logs": 0, "retain": "2", "folders": "/a,/b"}));
    assert_eq!(values["wait"], json!(0.5));
    assert_eq!(values["folders"], json!(["/a", "/b"]));
    let msg =
        refused(json!({"vmid": 1, "wait": -1, "logs": -2, "retain": 0, "folders": ["/a", "b"]}));
    for why in [
        "argument 'wait': expected seconds, 0 or more, got -1",
        "argument 'logs': expected 0 or more, got -2",
        "argument 'retain': expected 1 or more, got 0",
        "argument 'folders': expected an absolute path, got \"b\"",
    ] {
        assert!(msg.contains(why), "{msg}");
    }
}
