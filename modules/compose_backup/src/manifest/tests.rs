//! Manifests that are intact, truncated, changed, or of another version; and the sums of the files they name.

use super::*;
use crate::progress::Progress;
use crate::sums;
use std::fs;

/// A small manifest of project `shop`, with a deploy id from the sequence number.
pub fn sample(name: &str, sequence: u64) -> Manifest {
    let id = format!("20261121t0845{sequence:02}z-7f3a");
    Manifest {
        format: FORMAT,
        program: "compose_backup 0".into(),
        name: name.into(),
        sequence,
        at: Utc::from_unix(1_795_250_700).unwrap(),
        deploy_id: DeployId::parse(&id).unwrap(),
        release: None,
        project: "shop".into(),
        project_dir: "/opt/shop".into(),
        engine: EngineRecord {
            version: "20.10".into(),
            compose: "2.26.1".into(),
            storage: "overlay2".into(),
        },
        compose: ComposeRecord::default(),
        services: BTreeMap::new(),
        left_out: Vec::new(),
        images: Vec::new(),
        mounts: Vec::new(),
        not_data: Vec::new(),
        excluded: Vec::new(),
        files: Vec::new(),
        dumps: Vec::new(),
        logs: Vec::new(),
        consistency: Consistency::default(),
        sizes: Sizes::default(),
        contents: BTreeMap::new(),
        verify: Verdicts::default(),
        warnings: Vec::new(),
    }
}

fn code(folder: &Path) -> &'static str {
    let error = Manifest::read(folder).unwrap_err();
    error.downcast_ref::<Failure>().map_or("none", |failure| failure.reason)
}

#[test]
fn a_written_manifest_is_read() {
    let temp = tempfile::tempdir().unwrap();
    sample("backup-20261121-084500", 3).write(temp.path()).unwrap();
    let read = Manifest::read(temp.path()).unwrap();
    assert_eq!((read.sequence, read.project.as_str()), (3, "shop"));
    let text = fs::read_to_string(temp.path().join(TEXT)).unwrap();
    assert!(
        text.contains("--numeric-owner --xattrs") && text.contains("20261121t084503z-7f3a"),
        "{text}"
    );
}

#[test]
fn damaged_manifests_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let manifest = sample("backup-20261121-084500", 1);
    type Spoil = fn(&mut Vec<u8>);
    let damage: [(&str, Spoil); 4] = [
        (JSON, |bytes| bytes[40] ^= 1),
        (JSON, |bytes| bytes.truncate(100)),
        (SUM, |bytes| bytes[3] ^= 1),
        (SUM, Vec::clear),
    ];
    for (name, spoil) in damage {
        manifest.write(temp.path()).unwrap();
        let mut bytes = fs::read(temp.path().join(name)).unwrap();
        spoil(&mut bytes);
        fs::write(temp.path().join(name), bytes).unwrap();
        assert_eq!(code(temp.path()), "damaged", "{name}");
    }
    fs::remove_file(temp.path().join(SUM)).unwrap();
    assert_eq!(code(temp.path()), "damaged");
}

#[test]
fn a_newer_format_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let newer = Manifest { format: FORMAT + 1, ..sample("backup-20261121-084500", 1) };
    newer.write(temp.path()).unwrap();
    assert_eq!(code(temp.path()), "newer_format");
}

#[test]
fn damaged_files_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let mut manifest = sample("backup-20261121-084500", 1);
    let sum = Sum { sha256: hex(&Sha256::digest(b"hello")), bytes: 5 };
    manifest.contents.insert("dumps/db".into(), sum);
    fs::create_dir(temp.path().join("dumps")).unwrap();
    let file = temp.path().join("dumps/db");
    fs::write(&file, "hello").unwrap();
    let check = || {
        sums::check(temp.path(), &manifest, &mut Progress::silent())
            .map_err(|why| format!("{why:#}"))
    };
    check().unwrap();
    assert_eq!(sums::check_sizes(temp.path(), &manifest), None);
    fs::write(&file, "hellp").unwrap();
    assert!(check().unwrap_err().contains("dumps/db was changed: its sum differs"));
    fs::write(&file, "hell").unwrap();
    assert!(check().unwrap_err().contains("4 bytes instead of 5"));
    fs::remove_file(&file).unwrap();
    assert!(check().unwrap_err().contains("dumps/db cannot be read"));
    assert_eq!(sums::check_sizes(temp.path(), &manifest).unwrap(), "dumps/db is missing");
}
