//! Indexes, segments and compressed data that nobody wrote: each is restored or is an error, and nothing outside is touched.

use crate::common::*;
use archive::{Encoder, Form, Pass, decode};
use fuzz::{OF_TAR, rounds, with_right_sums};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

const OF_INDEXES: [&[u8]; 20] = [
    b" ",
    b"\n",
    b"-",
    b"%",
    b"%2e%2e/",
    b"../",
    b"/",
    b"0",
    b"18446744073709551615",
    b"9223372036854775807.999999999",
    b"-1",
    b"777777",
    b"f ",
    b"d ",
    b"l ",
    b"h ",
    b"c ",
    b"p ",
    b"end 3\n",
    b"\xff\0",
];

/// Small, with something of each kind.
fn small_tree(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("folder/empty")).unwrap();
    fs::write(at("folder/file"), "content\n").unwrap();
    fs::write(at(&"n".repeat(200)), "a name for PAX").unwrap();
    fs::hard_link(at("folder/file"), at("z-other")).unwrap();
    symlink("folder/file", at("link")).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 1 << 19).unwrap();
    attribute(&at("folder/file"), "user.plain", b"value");
}

#[test]
fn whatever_an_index_and_its_segment_hold() {
    let (from, base) = (folder(), in_memory());
    small_tree(from.path());
    let kept = Kept { folder: in_memory(), form: Form::Tar };
    kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    let mut index = Vec::new();
    let file = BufReader::new(File::open(kept.index()).unwrap());
    decode::decoder(file).unwrap().read_to_end(&mut index).unwrap();
    let segment = fs::read(kept.segment(0)).unwrap();
    let restore = |index: &[u8], segment: &[u8]| {
        let mut encoder = Encoder::small(Kept::new_file(&kept.index()), Form::Zstd).unwrap();
        encoder.write_all(index).unwrap();
        encoder.finish().unwrap();
        fs::write(kept.segment(0), segment).unwrap();
        let to = base.path().join("to");
        fs::create_dir(&to).unwrap();
        let done = kept.restore(&to);
        let beside: Vec<_> = fs::read_dir(base.path()).unwrap().map(|it| it.unwrap()).collect();
        assert_eq!(beside.len(), 1, "{beside:?}");
        fs::remove_dir_all(&to).unwrap();
        done
    };
    assert_eq!(restore(&index, &segment).unwrap().entries, 8);
    rounds(150, 20_000, |random| {
        let which = random.below(3);
        let index = if which == 0 { index.clone() } else { random.changed(&index, &OF_INDEXES) };
        let segment = match which {
            1 => segment.clone(),
            _ => with_right_sums(random.changed(&segment, &OF_TAR)),
        };
        if let Err(error) = restore(&index, &segment) {
            let message = format!("{error:#}");
            assert!(
                !message.is_empty() && !message.contains("a worker thread panicked"),
                "{message}"
            );
        }
    });
}

#[test]
fn whatever_is_to_be_decompressed() {
    let text: Vec<u8> = (0..60_000_u32).flat_map(|n| (n * n % 251).to_le_bytes()).collect();
    let sound = [Form::Zstd, Form::Gzip].map(|form| {
        let at = in_memory();
        let path = at.path().join("compressed");
        let mut encoder = Encoder::small(Kept::new_file(&path), form).unwrap();
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap();
        fs::read(path).unwrap()
    });
    const PIECES: [&[u8]; 4] =
        [b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"\x50\x2a\x4d\x18\xff\xff\xff\xff", &[0xff; 16]];
    rounds(150, 50_000, |random| {
        let one = random.one(&sound);
        let changed = random.changed(one, &PIECES);
        let mut found = Vec::new();
        let read = decode::decoder(&changed[..]).and_then(|from| {
            from.take(64 << 20).read_to_end(&mut found).map_err(|why| decode::sentence(&why))
        });
        match read {
            // All of it is one block with its own sum: it may be missing, or there more than once.
            Ok(_) => {
                assert!(found.chunks(text.len()).all(|block| block == text), "{}", found.len())
            }
            Err(why) => assert!(!why.is_empty() && !why.contains('\n'), "{why:?}"),
        }
    });
}
