//! Random ledgers: parsing in part, in full and after compacting must agree.

use super::tests::{id, opened, ran, said};
use super::*;
use fuzz::{Random, rounds};

const PIECES: [&[u8]; 16] = [
    b"\n",
    b"\r\n",
    b"\0",
    b"\"take_over\":null",
    b"\"take_over\":\"20261121t080001z-0000\"",
    b"\"v\":2,",
    b"{\"v\":1,\"at\":\"2026-11-21T08:00:01Z\",\"deploy\":\"20261121t080001z-0000\",\"event\":{\"",
    b"close\":{\"outcome\":\"done\"}}}\n",
    b"}}\n",
    b"{}",
    b"99999999999999999999",
    b"-1",
    b"9999-12-31T23:59:60Z",
    b"\\u0000",
    b"\\ud800",
    "\u{202e}é\u{1b}".as_bytes(),
];

/// A few deploys with their lines in random order, as after merging two ledgers by hand.
fn ledger(random: &mut Random) -> String {
    let mut lines = Vec::new();
    for _ in 0..=random.below(6) {
        let n = random.below(5) as u32;
        let outcome = *random.one(&["done", "failed_reverted", "failed_not_reverted"]);
        let other = format!("\"{}\"", self::id(random.below(5) as u32).as_str());
        let purpose = *random.one(&["deploy", "rollback", "maintenance", "lock"]);
        lines.push(match random.below(8) {
            0 => opened(n, "null"),
            1 => opened(n, &other),
            6 => opened(n, &format!("null,\"purpose\":\"{purpose}\"")),
            7 => opened(n, &format!("{other},\"unlock\":{other}")),
            2 => said(n, "{\"void\":{\"reason\":\"bad\"}}"),
            3 => said(n, "{\"revert\":{\"reason\":null}}"),
            4 => said(n, &format!("{{\"close\":{{\"outcome\":\"{outcome}\"}}}}")),
            _ => ran(n, outcome),
        });
        if random.percent(10) {
            lines.push(lines[lines.len() - 1].replace("\":", "\": "));
        }
    }
    lines.concat()
}

/// Who holds the lease, what is current, what was last good and what locks deploys.
fn says(ledger: &Ledger) -> String {
    let finds =
        [Ledger::holder as fn(&Ledger) -> Option<&Deploy>, Ledger::current, Ledger::last_good];
    let locked = ledger.locked(Cap { most: 2, window: u64::MAX });
    let found = finds.map(|find| find(ledger).map(|deploy| &deploy.id));
    format!("{found:?} {:?}", locked.map(|locked| (&locked.by.id, locked.why)))
}

#[test]
fn random_ledgers_are_parsed_consistently() {
    rounds(2_000, 200_000, |random| {
        let sound = ledger(random);
        let changed = random.percent(70);
        let bytes = match changed {
            true => random.changed(sound.as_bytes(), &PIECES),
            false => sound.into_bytes(),
        };
        let named = id(random.below(5) as u32);
        let scope = Scope::About { newest: random.below(3), named: Some(&named) };
        let shown = String::from_utf8_lossy(&bytes);
        let (whole, part) = match (Ledger::read(&bytes, Scope::All), Ledger::read(&bytes, scope)) {
            (Ok(whole), Ok(part)) => (whole, part),
            (Err(whole), Err(part)) => return assert_eq!(whole.msg, part.msg, "{shown}"),
            (whole, part) => panic!("{:?} and {:?} of {shown}", whole.err(), part.err()),
        };
        assert_eq!(whole.torn, part.torn, "{shown}");
        if !whole.damaged.is_empty() {
            return;
        }
        assert!(part.damaged.is_empty(), "{:?} of {shown}", part.damaged);
        assert_eq!(says(&whole), says(&part), "{shown}");
        assert_eq!((&whole.newest, &whole.belongs_to), (&part.newest, &part.belongs_to), "{shown}");
        assert_eq!(
            format!("{:?}", whole.deploy(&named)),
            format!("{:?}", part.deploy(&named)),
            "{shown}"
        );
        let before = |ledger: &Ledger| ledger.before(&named).map(|deploy| deploy.id.clone());
        assert_eq!(before(&whole), before(&part), "{shown}");

        let retain = random.below(3);
        let (left, ..) = compact(&bytes, &whole, retain);
        let after = Ledger::read(&left, Scope::All).unwrap();
        assert!(after.damaged.is_empty(), "{:?} after compacting {shown}", after.damaged);
        assert_eq!(says(&whole), says(&after), "compacted: {shown}");
        assert_eq!(compact(&left, &after, retain).0, left, "compacted again: {shown}");
    });
}
