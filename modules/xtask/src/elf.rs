//! Reads from an ELF header what decides whether a binary runs on a target: its machine, and whether it is static.

use anyhow::{Context, Result, ensure};

const PT_INTERP: u32 = 3;
pub const X86_64: u16 = 62;
pub const AARCH64: u16 = 183;

#[derive(Debug, PartialEq)]
pub struct Elf {
    pub machine: u16,
    /// Whether it names no program interpreter, so that it needs no loader and no library of the target.
    pub is_static: bool,
}

/// Parses a 64-bit little-endian ELF file; no other kind is built here.
pub fn parse(file: &[u8]) -> Result<Elf> {
    ensure!(file.starts_with(b"\x7fELF"), "not an ELF file");
    ensure!(file.get(4..6) == Some(&[2, 1]), "not a 64-bit little-endian ELF file");
    let table = u64::from_le_bytes(bytes(file, 32)?) as usize;
    let size = u16::from_le_bytes(bytes(file, 54)?) as usize;
    let count = u16::from_le_bytes(bytes(file, 56)?) as usize;
    let mut is_static = true;
    for index in 0..count {
        is_static &= u32::from_le_bytes(bytes(file, table + index * size)?) != PT_INTERP;
    }
    Ok(Elf { machine: u16::from_le_bytes(bytes(file, 18)?), is_static })
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let slice =
        at.checked_add(N).and_then(|end| file.get(at..end)).context("the ELF file is truncated")?;
    Ok(slice.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, segments: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for kind in segments {
            file.extend(kind.to_le_bytes());
            file.extend([0; 52]);
        }
        file
    }

    #[test]
    fn tells_static_from_dynamic() {
        assert_eq!(
            parse(&elf(AARCH64, &[1, 1, 2])).unwrap(),
            Elf { machine: AARCH64, is_static: true }
        );
        assert_eq!(
            parse(&elf(X86_64, &[1, PT_INTERP])).unwrap(),
            Elf { machine: X86_64, is_static: false }
        );
    }

    #[test]
    fn this_very_test_is_a_dynamic_program() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(cfg!(target_feature = "crt-static") || !parse(&this).unwrap().is_static);
    }

    #[test]
    fn refuses_what_is_cut_off_or_something_else() {
        assert!(parse(b"#!/bin/sh\n").is_err());
        assert!(parse(&elf(X86_64, &[1, 1])[..100]).is_err());
        assert!(parse(&elf(X86_64, &[1])[..20]).is_err());
    }
}
