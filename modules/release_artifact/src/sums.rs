//! SHA-256 sums: in an option, in a file of sums, in the forge's list of a package's files, in headers.
//!
//! Invariant: a sum has exactly 32 bytes; a file without a sum of the name, or with two different ones, is an
//! error and never "no sum".

use serde::Deserialize;
use sha2::digest::Output;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum([u8; 32]);

impl Sum {
    pub fn of(hash: Output<Sha256>) -> Sum {
        Sum(hash.into())
    }

    pub fn finish(hash: Sha256) -> Sum {
        Sum::of(hash.finalize())
    }

    fn from_base64(text: &str) -> Option<Sum> {
        Sum::from_bytes(&host::from_base64(text)?)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Sum> {
        bytes.try_into().ok().map(Sum)
    }
}

impl FromStr for Sum {
    type Err = String;

    fn from_str(text: &str) -> Result<Sum, String> {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> = (text.as_bytes().chunks(2))
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect();
        (bytes.and_then(|bytes| Sum::from_bytes(&bytes)))
            .ok_or_else(|| "expected a SHA-256 sum of 64 hex digits".to_owned())
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Finds the sum of the file `name` in a file of sums: the format of sha256sum, a single sum, or the list of
/// Forgejo at `/api/v1/packages/<owner>/generic/<package>/<version>/files`.
pub fn in_file(text: &str, name: &str) -> Result<Sum, String> {
    #[derive(Deserialize)]
    struct PackageFile {
        name: String,
        sha256: String,
    }
    let mut found: Vec<Sum> = Vec::new();
    if text.trim_start().starts_with('[') {
        let files: Vec<PackageFile> = serde_json::from_str(text)
            .map_err(|_| "it is not a list of a package's files with their sums".to_owned())?;
        for file in files.iter().filter(|file| file.name == name) {
            found.push(file.sha256.parse()?);
        }
    } else {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (sum, of) = match line.split_once([' ', '\t']) {
                Some((sum, of)) => (sum, of.trim_start().trim_start_matches('*')),
                None => (line, name),
            };
            let of = of.strip_prefix("./").unwrap_or(of);
            if let (true, Ok(sum)) = (of == name, sum.parse()) {
                found.push(sum);
            }
        }
    }
    found.dedup();
    match found.as_slice() {
        [sum] => Ok(*sum),
        [] => Err(format!("it has no SHA-256 sum of {name}")),
        _ => Err(format!("it has different SHA-256 sums of {name}")),
    }
}

/// Finds the sum of the whole file in the headers of the registry, and the name of the header.
/// `Content-Digest` is not used, since of a part it is the sum of that part.
pub fn in_headers(headers: &[(String, String)]) -> Option<(&str, Sum)> {
    headers.iter().find_map(|(name, value)| {
        let sum = match name.to_ascii_lowercase().as_str() {
            "x-checksum-sha256" => value.trim().parse().ok(),
            "x-amz-checksum-sha256" => Sum::from_base64(value.trim()),
            "repr-digest" | "digest" => value.split(',').find_map(|part| {
                let (kind, sum) = part.trim().split_once('=')?;
                let wanted = kind.eq_ignore_ascii_case("sha-256");
                wanted.then(|| Sum::from_base64(sum.trim_matches(':'))).flatten()
            }),
            _ => None,
        };
        sum.map(|sum| (name.as_str(), sum))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const BASE64: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn sum() -> Sum {
        HEX.parse().unwrap()
    }

    #[test]
    fn sums_are_parsed() {
        assert_eq!(sum(), Sum::finish(Sha256::new()));
        assert_eq!(sum().to_string(), HEX);
        assert_eq!(HEX.to_uppercase().parse(), Ok(sum()));
        for wrong in ["", "e3", &HEX[1..], &format!("{HEX}0"), &HEX.replace('e', "g"), "é"] {
            assert!(wrong.parse::<Sum>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_sum_of_the_name_is_found() {
        let other = HEX.replace('e', "f");
        for text in [
            format!("{other}  b.tar.zst\n{HEX}  a.tar.zst\n"),
            format!("{HEX} *./a.tar.zst\r\n"),
            format!("{HEX}\n"),
            format!(
                r#"[{{"id":1,"name":"b","sha256":"{other}"}},{{"name":"a.tar.zst","sha256":"{HEX}"}}]"#
            ),
        ] {
            assert_eq!(in_file(&text, "a.tar.zst"), Ok(sum()), "{text}");
        }
        for text in [
            String::new(),
            format!("{HEX}  xa.tar.zst\n"),
            format!("{HEX}  a.tar.zst\n{other}  a.tar.zst\n"),
            "<html>".to_owned(),
            "[1]".to_owned(),
        ] {
            assert!(in_file(&text, "a.tar.zst").is_err(), "{text}");
        }
    }

    #[test]
    fn the_sum_is_found_in_headers() {
        for (name, value) in [
            ("X-Checksum-Sha256", HEX.to_owned()),
            ("Digest", format!("md5=xx, SHA-256={BASE64}")),
            ("repr-digest", format!("sha-256=:{BASE64}:")),
        ] {
            let headers = [("Server".to_owned(), "x".to_owned()), (name.to_owned(), value)];
            assert_eq!(in_headers(&headers), Some((name, sum())), "{name}");
        }
        let headers = [("Content-Digest".to_owned(), format!("sha-256=:{BASE64}:"))];
        assert_eq!(in_headers(&headers), None);
    }
}
