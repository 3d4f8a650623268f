//! Header of an entry in a segment: a ustar block, and before it a PAX entry for what does not fit into
//! it (long names, fractions of seconds, large numbers, extended attributes, holes).
//!
//! GNU tar and bsdtar read what is written here. Only what was written here is read: the checksum, the
//! kind and the records must be right, and anything else is an error.
//! Invariant: values of records are delimited by their length: they may hold line feeds and zeros. So
//! the tar crate reads only the block: it ends a record at a line feed, which the ACL of user 10 holds,
//! and wants names of attributes in UTF-8.

use tar::{EntryType, Header};

pub const BLOCK: usize = 512;
/// Limit for all attributes of one entry; the kernel allows 64 KiB for a value and for the list of names.
pub const LONGEST_RECORDS: u64 = 16 << 20;

const XATTR: &[u8] = b"SCHILY.xattr.";
/// The longest name or target of a link that fits into the block.
const LONGEST_NAME: usize = 100;
const KNOWN: [EntryType; 8] = [
    EntryType::Regular,
    EntryType::Link,
    EntryType::Symlink,
    EntryType::Char,
    EntryType::Block,
    EntryType::Directory,
    EntryType::Fifo,
    EntryType::XHeader,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// [`EntryType::XHeader`]: the PAX entry itself.
    pub kind: EntryType,
    /// The name in the archive; that of a folder ends with a slash.
    pub name: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes that follow in the archive.
    pub size: u64,
    pub modified: (i64, u32),
    /// Target of a link.
    pub target: Vec<u8>,
    /// Major and minor number.
    pub device: (u32, u32),
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Real size of a file with holes; then the content begins with the map.
    pub sparse: Option<u64>,
}

impl Head {
    /// Encodes all blocks before the content.
    pub fn bytes(&self) -> Vec<u8> {
        let mut records = self.records();
        let mut out = Vec::with_capacity(3 * BLOCK);
        if !records.is_empty() {
            let (name, size) = ([b"PaxHeaders/", &self.name[..]].concat(), records.len() as u64);
            out.extend_from_slice(&self.block(EntryType::XHeader, &name, size));
            records.resize(padded(size) as usize, 0);
            out.extend_from_slice(&records);
        }
        let sparse = [b"GNUSparseFile.0/", &self.name[..]].concat();
        let name = if self.sparse.is_some() { &sparse } else { &self.name };
        out.extend_from_slice(&self.block(self.kind, name, self.size));
        out
    }

    /// Encodes the ustar block. What does not fit is truncated or zero there, and is in a PAX record.
    fn block(&self, kind: EntryType, name: &[u8], size: u64) -> [u8; BLOCK] {
        let mut header = Header::new_ustar();
        let put = |field: &mut [u8], bytes: &[u8]| {
            let length = field.len().min(bytes.len());
            field[..length].copy_from_slice(&bytes[..length]);
        };
        let fields = header.as_old_mut();
        put(&mut fields.name, name);
        put(&mut fields.linkname, &self.target);
        header.set_entry_type(kind);
        header.set_mode(self.mode);
        header.set_uid(or_zero(self.uid.into(), 8));
        header.set_gid(or_zero(self.gid.into(), 8));
        header.set_size(or_zero(size, 12));
        header.set_mtime(seconds(self.modified).unwrap_or(0));
        if let Some(fields) = header.as_ustar_mut() {
            fields.set_device_major(or_zero(self.device.0.into(), 8) as u32);
            fields.set_device_minor(or_zero(self.device.1.into(), 8) as u32);
        }
        header.set_cksum();
        *header.as_bytes()
    }

    fn records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |key: &[u8], value: &[u8]| record(&mut out, key, value);
        let number = |value: u64| value.to_string().into_bytes();
        if let Some(size) = self.sparse {
            put(b"GNU.sparse.major", b"1");
            put(b"GNU.sparse.minor", b"0");
            put(b"GNU.sparse.name", &self.name);
            put(b"GNU.sparse.realsize", &number(size));
        } else if self.name.len() > LONGEST_NAME {
            put(b"path", &self.name);
        }
        if self.target.len() > LONGEST_NAME {
            put(b"linkpath", &self.target);
        }
        if !fits(self.size, 12) {
            put(b"size", &number(self.size));
        }
        for (key, id) in [(b"uid", self.uid), (b"gid", self.gid)] {
            if !fits(id.into(), 8) {
                put(key, &number(id.into()));
            }
        }
        if self.modified.1 != 0 || seconds(self.modified).is_none() {
            put(b"mtime", decimal(self.modified).as_bytes());
        }
        for (name, value) in &self.attributes {
            put(&[XATTR, &escape(name)].concat(), value);
        }
        out
    }

    /// Decodes a block, and the records before it. The error completes "it holds ...".
    pub fn parse(block: &[u8; BLOCK], records: &[u8]) -> Result<Head, &'static str> {
        let header = Header::from_byte_slice(block);
        let mut summed = header.clone();
        summed.set_cksum();
        let sums = (header.cksum().ok(), summed.cksum().ok());
        if header.as_ustar().is_none() || sums.0 != sums.1 {
            return Err("a block that is no valid tar header");
        }
        let kind = header.entry_type();
        if !KNOWN.contains(&kind) {
            return Err("an entry of an unknown kind");
        }
        let mut head = Head::fields(header, kind).ok_or("a header with an invalid number")?;
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, after) = next_record(rest).ok_or("invalid PAX records")?;
            head.note(key, value).ok_or("an invalid PAX record")?;
            rest = after;
        }
        Ok(head)
    }

    fn fields(header: &Header, kind: EntryType) -> Option<Head> {
        Some(Head {
            kind,
            name: header.path_bytes().into_owned(),
            mode: header.mode().ok()?,
            uid: header.uid().ok()?.try_into().ok()?,
            gid: header.gid().ok()?.try_into().ok()?,
            size: header.size().ok()?,
            modified: (header.mtime().ok()?.try_into().ok()?, 0),
            target: header.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default(),
            device: (header.device_major().ok()??, header.device_minor().ok()??),
            attributes: Vec::new(),
            sparse: None,
        })
    }

    /// Applies one record. Owner and time are skipped: the index has them.
    fn note(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        match key {
            b"path" | b"GNU.sparse.name" => self.name = value.to_vec(),
            b"linkpath" => self.target = value.to_vec(),
            b"size" => self.size = number()?,
            b"GNU.sparse.realsize" => self.sparse = Some(number()?),
            b"GNU.sparse.major" | b"GNU.sparse.minor" | b"uid" | b"gid" | b"mtime" => {}
            key => {
                let name = unescape(key.strip_prefix(XATTR)?)?;
                self.attributes.push((name, value.to_vec()));
            }
        }
        Some(())
    }
}

/// The size rounded up to whole blocks.
pub fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64) * BLOCK as u64
}

/// Whether the octal digits and a zero byte fit into a field of that length.
fn fits(value: u64, length: u32) -> bool {
    value < 1 << (3 * (length - 1))
}

fn or_zero(value: u64, length: u32) -> u64 {
    if fits(value, length) { value } else { 0 }
}

fn seconds((seconds, _): (i64, u32)) -> Option<u64> {
    u64::try_from(seconds).ok().filter(|seconds| fits(*seconds, 12))
}

/// Nanoseconds count upwards before 1970 too; a decimal fraction does not.
fn decimal((seconds, nanos): (i64, u32)) -> String {
    if seconds >= 0 || nanos == 0 {
        return format!("{seconds}.{nanos:09}");
    }
    let whole = (seconds + 1).unsigned_abs();
    format!("-{whole}.{:09}", 1_000_000_000 - nanos)
}

/// "23 mtime=1.000000000\n": the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn next_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Escapes as GNU tar does: a key ends at the first "=".
fn escape(name: &[u8]) -> Vec<u8> {
    name.iter().fold(Vec::with_capacity(name.len()), |mut out, byte| {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            byte => out.push(*byte),
        }
        out
    })
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [b'2', b'5', after @ ..]) => (b'%', after),
            (b'%', [b'3', b'D', after @ ..]) => (b'=', after),
            (b'%', _) => return None,
            (byte, after) => (*byte, after),
        };
        out.push(byte);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            kind: EntryType::Regular,
            name: b"a".to_vec(),
            mode: 0o4755,
            uid: 1,
            gid: 2,
            size: 3,
            modified: (4, 0),
            target: Vec::new(),
            device: (0, 0),
            attributes: Vec::new(),
            sparse: None,
        }
    }

    fn read(bytes: &[u8]) -> Result<Head, &'static str> {
        let block = |at: usize| <&[u8; BLOCK]>::try_from(&bytes[at..at + BLOCK]).unwrap();
        match Head::parse(block(0), &[])? {
            Head { kind: EntryType::XHeader, size, .. } => {
                let at = BLOCK + padded(size) as usize;
                Head::parse(block(at), &bytes[BLOCK..BLOCK + size as usize])
            }
            head => Ok(head),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let attribute = (b"user.a=%b".to_vec(), b"\n\0=12 x=y\n".to_vec());
        for head in [
            head(),
            Head { name: vec![b'n'; 100], ..head() },
            Head { name: [&[b'n'; 300][..], b"\n\xff"].concat(), ..head() },
            Head { kind: EntryType::Symlink, target: vec![b't'; 4000], size: 0, ..head() },
            Head { size: 1 << 40, ..head() },
            Head { attributes: vec![attribute], ..head() },
            Head { sparse: Some(1 << 50), size: 512, ..head() },
            Head { kind: EntryType::Block, size: 0, device: (259, 1 << 20), ..head() },
        ] {
            assert_eq!(read(&head.bytes()), Ok(head));
        }
    }

    #[test]
    fn times_and_large_numbers_are_records() {
        let records = |head: Head| String::from_utf8(head.records()).unwrap();
        assert_eq!(records(head()), "");
        let late = Head { modified: (1_763_713_500, 5), uid: 1 << 30, ..head() };
        assert_eq!(records(late), "18 uid=1073741824\n30 mtime=1763713500.000000005\n");
        for (time, text) in [((-2, 500_000_000), "-1.500000000"), ((-1, 1), "-0.999999999")] {
            assert_eq!(decimal(time), text);
        }
        // The length counts its own digits: there is no record of 100 bytes with this key.
        for (value, length) in [(93, 99), (94, 101)] {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; value]);
            assert!(out.starts_with(format!("{length} k=v").as_bytes()) && out.len() == length);
        }
    }

    #[test]
    fn invalid_headers_are_refused() {
        let good = Head { name: vec![b'n'; 101], ..head() }.bytes();
        assert!(read(&good).is_ok());
        for at in [0, 100, 124, 148, 156, 257, BLOCK, BLOCK + 4, 2 * BLOCK, 2 * BLOCK + 130] {
            let mut odd = good.clone();
            odd[at] ^= 1;
            assert!(read(&odd).is_err(), "{at}");
        }
        for records in
            ["5 a=b", "9 a=b\n", "x a=b\n", "6 path\n", "13 odd=value\n", "0 a=b\n", "1 "]
        {
            let block = head().bytes();
            let block = <&[u8; BLOCK]>::try_from(&block[..]).unwrap();
            assert!(Head::parse(block, records.as_bytes()).is_err(), "{records}");
        }
    }
}
