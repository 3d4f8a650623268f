use super::*;
use serde_json::json;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// Joins the pieces at run time: a text that this program contains as a whole is not replaced.
fn made(pieces: &[&str]) -> String {
    pieces.concat()
}

// One test for everything, since the list is global.
#[test]
fn secrets_are_replaced_everywhere_but_own_words_are_not() {
    let (word, other) = (made(&["hunt", "er2-", "x"]), made(&["line", "-two-", "of a key"]));
    let (token, password) = (made(&["tok", "en-", "4711"]), made(&["pass", "4711", "word"]));
    let of_a_url = made(&["urls-", "own-", "word"]);
    let quoted = made(&["quo", "\"ted-", "word"]);
    remember(
        &json!([word, {"key": format!("line one\n{other}")}, 4711, true, "a", "changed", "five5"]),
    );
    remember(&json!(quoted));
    remember_named(&object(json!({
        "COLOR": "blue-green",
        "Authorization": format!("Bearer {token}"),
        "X-Api-Key": "k3y",
        "more": {"DB_PASSWORD": password, "PGUSER": "application"},
    })));
    remember_urls(&json!([format!("http://me:{of_a_url}@host/"), "http://app:app@db/app"]));
    let printed = Value::Object(result(object(json!({
        "changed": true,
        "rc": 4711,
        "reason": "five5",
        "msg": format!("login with {word} failed, and all that was changed is back"),
        "whole": word,
        "pin": 4711,
        "short": "k3y",
        "a": "a",
        "deep": [{(format!("a {word} key")): "x", "ok": format!("{other}, {word}")}],
        "child": json!({"password": quoted}).to_string(),
        "plain": ["blue-green", "application", "app", "five5 and k3y stand in words"],
        "named": [format!("{token} or {password}"), of_a_url, "http://you:any@host"],
        "reserved": {"__ansible_type": "x"},
        "diff": [{"before": {"p": word}, "after": format!("{word} again")}],
    }))));
    let text = printed.to_string();
    for secret in [&*word, &*other, &*token, &*password, &*of_a_url, "quo\\", "__ansible"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(printed["msg"], "login with ******** failed, and all that was changed is back");
    assert_eq!(printed["whole"], WHOLE);
    assert_eq!(printed["pin"], WHOLE);
    assert_eq!(printed["short"], WHOLE);
    assert_eq!(printed["a"], WHOLE);
    assert_eq!(printed["rc"], 4711);
    assert_eq!(printed["reason"], "five5");
    assert_eq!(printed["changed"], true);
    assert_eq!(
        printed["plain"],
        json!(["blue-green", "application", "app", "five5 and k3y stand in words"])
    );
    assert_eq!(printed["named"][2], "http://you:********@host");
    assert_eq!(printed["diff"][0]["after"], "******** again");
}

#[test]
fn a_secret_option_is_hidden_whole_and_its_siblings_are_shown() {
    const LOGIN: &[Opt] = &[
        Opt::new("user", crate::Kind::Str),
        Opt::new("headers", crate::Kind::Dict).secret(),
        Opt::new("pin", crate::Kind::Int).secret(),
    ];
    let option = Opt::new("logins", crate::Kind::List).options(LOGIN);
    let login = json!({"user": "x", "headers": {"Host": "y"}, "pin": null});
    let seen = shown(&[&option], &object(json!({"logins": [login], "other": {"headers": 1}})));
    let login = json!({"user": "x", "headers": WHOLE, "pin": null});
    assert_eq!(Value::Object(seen), json!({"logins": [login], "other": {"headers": 1}}));
}
