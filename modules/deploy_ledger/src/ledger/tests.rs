//! Tests of parsing and compacting: torn, invalid and newer lines, take-overs.

use super::*;

const OPEN: &str = r#"{"v":1,"at":"2026-11-21T08:45:00Z","deploy":"20261121t084500z-7f3a","event":{"open":{"app":"shop","env":"prod","release":null,"by":"","lease":60,"take_over":null}}}"#;
const CLOSE: &str = r#"{"v":1,"at":"2026-11-21T08:46:00Z","deploy":"20261121t084500z-7f3a","event":{"close":{"outcome":"done"}}}"#;

fn parse(text: &str) -> Ledger {
    Ledger::parse(text.as_bytes(), Scope::All).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_ledger_torn_at_any_byte_has_its_complete_lines() {
    let text = format!("{OPEN}\n{CLOSE}\n");
    for cut in 0..=text.len() {
        let ledger = parse(&text[..cut]);
        let whole = text[..cut].matches('\n').count();
        assert_eq!(ledger.deploys.len(), whole.min(1), "cut at {cut}");
        assert_eq!(ledger.holder().is_some(), whole == 1, "cut at {cut}");
        assert!(ledger.damaged.is_empty(), "cut at {cut}");
    }
}

#[test]
fn invalid_lines_are_noted() {
    let ledger = parse(&format!("{OPEN}\nby hand\n{{\"v\":0}}\n{CLOSE}\n"));
    assert_eq!(ledger.damaged.len(), 2);
    assert!(ledger.damaged[0].starts_with("line 2: "));
    assert!(ledger.holder().is_none());
}

#[test]
fn a_newer_version_is_refused() {
    let failure = Ledger::parse(b"{\"v\":2,\"new\":true}\n", Scope::All).map(|_| ()).unwrap_err();
    assert_eq!(failure.reason, "newer_version");
}

#[test]
fn taking_over_ends_the_other_lease() {
    let next = OPEN
        .replace("084500z-7f3a", "090000z-0001")
        .replace("\"take_over\":null", "\"take_over\":\"20261121t084500z-7f3a\"");
    let ledger = parse(&format!("{OPEN}\n{next}\n"));
    assert_eq!(ledger.holder().map(|deploy| deploy.id.as_str()), Some("20261121t090000z-0001"));
    let first = &ledger.deploys[0];
    let by = first.superseded.as_ref().map(|(by, _)| by.as_str());
    assert_eq!(by, Some("20261121t090000z-0001"));
}

/// A line about deploy `n` of this second.
pub(super) fn said(n: u32, event: &str) -> String {
    let (minute, second) = (n / 60, n % 60);
    format!(
        "{{\"v\":1,\"at\":\"2026-11-21T08:{minute:02}:{second:02}Z\",\"deploy\":\"20261121t08{minute:02}{second:02}z-0000\",\"event\":{event}}}\n"
    )
}

pub(super) fn opened(n: u32, more: &str) -> String {
    said(
        n,
        &format!(
            "{{\"open\":{{\"app\":\"shop\",\"env\":\"prod\",\"release\":null,\"by\":\"\",\"lease\":60,\"take_over\":{more}}}}}"
        ),
    )
}

pub(super) fn ran(n: u32, outcome: &str) -> String {
    let phase = "{\"phase\":{\"phase\":\"flip\",\"status\":\"done\",\"data\":{}}}";
    let point = "{\"restore_point\":{\"layer\":\"dataset\",\"name\":\"x\",\"guid\":\"1\"}}";
    let close = format!("{{\"close\":{{\"outcome\":\"{outcome}\"}}}}");
    [
        opened(n, "null"),
        said(n, "{\"heartbeat\":{}}"),
        said(n, phase),
        said(n, point),
        said(n, &close),
    ]
    .concat()
}

pub(super) fn id(n: u32) -> DeployId {
    DeployId::parse(&format!("20261121t08{:02}{:02}z-0000", n / 60, n % 60)).unwrap()
}

fn compacted(text: &str, retain: usize) -> (Ledger, String) {
    let (left, ..) = compact(text.as_bytes(), &parse(text), retain);
    let left = String::from_utf8(left).unwrap();
    (parse(&left), left)
}

#[test]
fn what_is_current_and_where_a_way_back_leads() {
    let text =
        [ran(1, "done"), ran(2, "failed_reverted"), ran(3, "done"), ran(4, "failed_not_reverted")];
    let mut ledger = parse(&text.concat());
    assert_eq!(ledger.current().map(|it| &it.id), Some(&id(4)));
    assert_eq!(ledger.last_good().map(|it| &it.id), Some(&id(3)));
    assert_eq!(ledger.before(&id(3)).map(|it| &it.id), Some(&id(1)));
    assert_eq!(ledger.before(&id(1)).map(|it| &it.id), None);
    ledger.add(Utc::from_unix(0).unwrap(), id(3), Event::Void { reason: "slow".into() });
    assert_eq!(ledger.last_good().map(|it| &it.id), Some(&id(1)));
}

#[test]
fn compacting_keeps_what_is_needed_as_it_was() {
    let void = said(2, "{\"void\":{\"reason\":\"bad\"}}");
    let revert = said(3, "{\"revert\":{\"reason\":null}}");
    let failed = ran(3, "failed_reverted").replacen('\n', &format!("\n{revert}"), 1);
    let dead = opened(7, "null");
    let text = [
        ran(1, "done"),
        ran(2, "done"),
        failed,
        ran(4, "failed_not_reverted"),
        ran(5, "done"),
        void,
        ran(6, "failed_reverted"),
        dead,
        opened(8, "\"20261121t080007z-0000\""),
    ]
    .concat();
    let (before, (after, left)) = (parse(&text), compacted(&text, 1));
    assert!(after.damaged.is_empty(), "{:?}", after.damaged);
    for (name, find) in [
        ("holder", Ledger::holder as fn(&Ledger) -> Option<&Deploy>),
        ("current", Ledger::current),
        ("last good", Ledger::last_good),
    ] {
        assert_eq!(find(&before).map(|it| &it.id), find(&after).map(|it| &it.id), "{name}");
    }
    let kept: Vec<&DeployId> = after.deploys.iter().map(|it| &it.id).collect();
    // Forgotten: the first, and failures but the last one (which died, and was taken over).
    assert_eq!(kept, [2, 3, 5, 7, 8].map(id).iter().collect::<Vec<_>>());
    assert!(after.deploy(&id(2)).unwrap().void.is_some());
    assert!(after.deploy(&id(2)).unwrap().phases.is_empty());
    assert!(after.deploy(&id(3)).unwrap().reverted.is_some());
    assert!(!after.deploy(&id(5)).unwrap().restore_points.is_empty());
    // Byte for byte, in the same order.
    let mut rest = text.lines();
    assert!(left.lines().all(|line| rest.any(|old| old == line)), "{left}");
    assert_eq!(compacted(&left, 1).1, left, "again");
}

#[test]
fn who_was_taken_over_holds_no_lease_again() {
    let void = said(1, "{\"void\":{\"reason\":\"bad\"}}");
    let text = [
        opened(1, "null"),
        void,
        opened(2, "\"20261121t080001z-0000\""),
        said(2, "{\"close\":{\"outcome\":\"failed_reverted\"}}"),
        ran(3, "done"),
        ran(4, "failed_reverted"),
    ]
    .concat();
    let (after, left) = compacted(&text, 1);
    assert!(after.holder().is_none(), "{left}");
    assert!(after.deploy(&id(2)).is_some(), "{left}");
}

#[test]
fn a_restore_point_with_a_cost_that_is_no_object_is_invalid() {
    let line = said(1, "{\"restore_point\":{\"layer\":\"x\",\"name\":\"y\",\"cost\":5}}");
    assert_eq!(parse(&format!("{}{line}", opened(1, "null"))).damaged.len(), 1);
}

/// The result must not depend on how much of a long ledger is parsed.
#[test]
fn a_long_ledger_parsed_in_part_gives_the_same_result() {
    // The first of all died, and was taken over by one that nobody asks for.
    let taken = [
        opened(3580, "null"),
        opened(3581, "\"20261121t085940z-0000\""),
        said(3581, "{\"close\":{\"outcome\":\"failed_reverted\"}}"),
    ];
    let taken = taken.concat();
    let many =
        |from: u32, outcome: &str| (from..from + 2000).map(|n| ran(n, outcome)).collect::<String>();
    let spaced = |line: String| line.replace("\":", "\": ");
    let void = spaced(said(5, "{\"void\":{\"reason\":\"bad\"}}"));
    let tails: [Vec<String>; 5] = [
        vec![],
        vec![spaced(opened(3590, "null")), said(3590, "{\"heartbeat\":{}}")],
        vec![
            opened(3590, "null"),
            opened(3591, "\"20261121t085950z-0000\""),
            ran(3592, "failed_reverted"),
        ],
        vec![ran(3590, "failed_not_reverted"), said(3590, "{\"void\":{\"reason\":\"x\"}}")],
        vec!["by hand\n".into(), said(3595, "{\"heartbeat\":{}}"), opened(7, "null"), "\n".into()],
    ];
    for tail in tails {
        let text = [
            taken.clone(),
            many(0, "done"),
            void.clone(),
            many(2000, "failed_reverted").split_inclusive('\n').take(7000).collect(),
            tail.concat(),
        ]
        .concat();
        assert!(text.len() > 1 << 20);
        let whole = parse(&text);
        for named in [None, Some(id(2)), Some(id(1500)), Some(id(9))] {
            let scope = Scope::About { newest: 4, named: named.as_ref() };
            let part =
                Ledger::parse(text.as_bytes(), scope).unwrap_or_else(|failure| panic!("{failure}"));
            assert!(part.deploys.len() < 20, "{}", part.deploys.len());
            assert_same(&part, &whole, named.as_ref());
        }
    }
}

/// Asserts that a ledger that was parsed in part answers as the whole one does.
fn assert_same(part: &Ledger, whole: &Ledger, named: Option<&DeployId>) {
    for find in
        [Ledger::holder as fn(&Ledger) -> Option<&Deploy>, Ledger::current, Ledger::last_good]
    {
        assert_eq!(format!("{:?}", find(part)), format!("{:?}", find(whole)));
    }
    assert_eq!(
        (&part.damaged, &part.newest, part.torn),
        (&whole.damaged, &whole.newest, whole.torn)
    );
    assert_eq!(part.belongs_to, whole.belongs_to);
    let failed = |ledger: &Ledger| ledger.deploys.iter().filter_map(Deploy::failed).max();
    assert_eq!(failed(part), failed(whole));
    if let Some(named) = named {
        assert_eq!(format!("{:?}", part.deploy(named)), format!("{:?}", whole.deploy(named)));
        let before = |ledger: &Ledger| ledger.before(named).map(|it| it.id.clone());
        assert_eq!(before(part), before(whole));
    }
}
