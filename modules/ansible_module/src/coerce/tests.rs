use super::*;

fn ok(kind: Kind, value: Value) -> Value {
    coerce(kind, value.clone()).unwrap_or_else(|why| panic!("{value} as {kind:?}: {why}"))
}

fn refused(kind: Kind, value: Value) -> String {
    match coerce(kind, value.clone()) {
        Err(why) => why,
        Ok(got) => panic!("{value} as {kind:?} gave {got}"),
    }
}

#[test]
fn strings_are_formatted_as_in_python() {
    assert_eq!(ok(Kind::Str, json!(420)), "420");
    assert_eq!(ok(Kind::Str, json!(true)), "True");
    assert_eq!(ok(Kind::Str, json!(null)), "");
    assert_eq!(ok(Kind::Str, json!(1.0)), "1.0");
    assert_eq!(ok(Kind::Str, json!(1e16)), "1e+16");
    assert_eq!(ok(Kind::Str, json!(0.00001)), "1e-05");
    assert_eq!(ok(Kind::Str, json!(["a", 1, {"it's": null}])), "['a', 1, {\"it's\": None}]");
}

#[test]
fn booleans() {
    for yes in [json!("Yes "), json!("on"), json!(1), json!("t"), json!(1.0), json!(true)] {
        assert_eq!(ok(Kind::Bool, yes), true);
    }
    for no in [json!("NO"), json!("off"), json!(0), json!("f"), json!(false)] {
        assert_eq!(ok(Kind::Bool, no), false);
    }
    assert!(refused(Kind::Bool, json!("maybe")).starts_with("The value 'maybe' is not a valid"));
    refused(Kind::Bool, json!(2));
    refused(Kind::Bool, json!(null));
}

#[test]
fn numbers() {
    assert_eq!(ok(Kind::Int, json!(" 1_000 ")), 1000);
    assert_eq!(ok(Kind::Int, json!("1__0_")), 10);
    assert_eq!(ok(Kind::Float, json!("1_0")), 10.0);
    refused(Kind::Float, json!("1__0"));
    assert_eq!(ok(Kind::Int, json!("1e3")), 1000);
    assert_eq!(ok(Kind::Int, json!(3.0)), 3);
    assert_eq!(ok(Kind::Int, json!(1e16)), 10_000_000_000_000_000_i64);
    refused(Kind::Int, json!(1e19));
    assert_eq!(ok(Kind::Int, json!(true)), 1);
    assert_eq!(refused(Kind::Int, json!("x")), "\"'x'\" cannot be converted to an int");
    for bad in [
        json!("1.5"),
        json!(1.5),
        json!(""),
        json!([1]),
        json!(null),
        json!("99999999999999999999"),
    ] {
        refused(Kind::Int, bad);
    }
    assert_eq!(ok(Kind::Float, json!("1.5")), 1.5);
    assert_eq!(ok(Kind::Float, json!(2)), 2.0);
    refused(Kind::Float, json!("nan"));
    refused(Kind::Float, json!("1.5.2"));
}

#[test]
fn lists_and_dictionaries() {
    assert_eq!(ok(Kind::List, json!("a, b")), json!(["a", " b"]));
    assert_eq!(ok(Kind::List, json!(7)), json!(["7"]));
    refused(Kind::List, json!({"a": 1}));
    assert_eq!(ok(Kind::Dict, json!("{\"a\": 1}")), json!({"a": 1}));
    assert_eq!(
        ok(Kind::Dict, json!("{'a': [1, True, None, ('x',)], 'b': {}, 1: -2.5}")),
        json!({"a": [1, true, null, ["x"]], "b": {}, "1": -2.5})
    );
    assert_eq!(
        ok(Kind::Dict, json!("a=1, b='x y' c=d\\ e")),
        json!({"a": "1", "b": "x y", "c": "d e"})
    );
    for bad in [json!("{broken"), json!("a=1, b"), json!("nothing"), json!([1]), json!("{1,2}")] {
        refused(Kind::Dict, bad);
    }
}

#[test]
fn sizes() {
    assert_eq!(ok(Kind::Bytes, json!("10G")), 10_737_418_240_u64);
    assert_eq!(ok(Kind::Bytes, json!("1.5 KB")), 1536);
    assert_eq!(ok(Kind::Bytes, json!(512)), 512);
    assert_eq!(ok(Kind::Bytes, json!("1 b")), 1);
    assert_eq!(ok(Kind::Bytes, json!("2megabyte")), 2_097_152);
    for bad in ["10Mb", "10X", "-1", "", "G", "1.G", "99Y"] {
        refused(Kind::Bytes, json!(bad));
    }
}

#[test]
fn paths() {
    let home = env::var("HOME").unwrap();
    assert_eq!(ok(Kind::Path, json!("~/x")), format!("{home}/x"));
    assert_eq!(ok(Kind::Path, json!("$HOME/x")), format!("{home}/x"));
    assert_eq!(ok(Kind::Path, json!("${HOME}")), home);
    assert_eq!(ok(Kind::Path, json!("~root/x")), "/root/x");
    for kept in ["~nobody-has-this-name/x", "$NOT_SET_HERE/x", "a$", "${", "${}", "/a~b"] {
        assert_eq!(ok(Kind::Path, json!(kept)), kept);
    }
}

#[test]
fn choices_that_yaml_turned_into_booleans() {
    assert_eq!(choice_from_bool("False", &["no", "x"]), Some("no"));
    assert_eq!(choice_from_bool("False", &["no", "off"]), None);
    assert_eq!(choice_from_bool("no", &["no"]), None);
}
