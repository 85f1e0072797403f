//! Runs a program as the kernel does (`bpf_convert_filter`, then `bpf_prog_run`), for the tests and the fuzzer.

#![expect(clippy::indexing_slicing, reason = "the kernel refuses a program that jumps out of itself")]

use super::{Instruction, NLATTR, NLATTR_NEST, op};

/// Bytes of `struct nlattr`.
const HEADER_BYTES: usize = 4;

/// Whether the program takes the message. `None` where it reads behind the end, which ends it and refuses the message.
///
/// # Panics
///
/// Where it jumps out of itself, or has an instruction that [`compile`](super::compile) does not use.
pub(crate) fn takes(program: &[Instruction], message: &[u8]) -> Option<bool> {
    let (mut a, mut x, mut next) = (0_u32, 0_u32, 0_usize);
    let read = |at: u32, bytes: usize| {
        let bytes = message.get(index(at)..)?.get(..bytes)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    };
    loop {
        let Instruction { code, jump_true, jump_false, k } = program[next];
        next += 1;
        match code {
            op::LOAD => a = k,
            op::LOAD_X => x = k,
            op::LOAD_AT => a = extension(k, message, a, x),
            op::LOAD_WORD => a = read(x.wrapping_add(k), 4)?,
            op::LOAD_HALF => a = read(x.wrapping_add(k), 2)?,
            op::LOAD_BYTE => a = read(x.wrapping_add(k), 1)?,
            op::TO_X => x = a,
            op::FROM_X => a = x,
            op::AND => a &= k,
            op::JUMP => next += index(k),
            op::JUMP_EQUAL => next += usize::from(if a == k { jump_true } else { jump_false }),
            op::RETURN => return Some(k > 0),
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// `bpf_skb_get_nlattr` and `bpf_skb_get_nlattr_nest`: the offset of the first attribute of the type, or 0.
fn extension(k: u32, message: &[u8], from: u32, of_type: u32) -> u32 {
    let rest = message.get(index(from)..).unwrap_or_default();
    let at = match k {
        NLATTR => find(rest, of_type),
        NLATTR_NEST => nlattr(rest).and_then(|(bytes, _)| {
            let nested = rest.get(HEADER_BYTES..bytes)?;
            Some(HEADER_BYTES + find(nested, of_type)?)
        }),
        _ => panic!("unknown extension {k:#x}"),
    };
    at.map_or(0, |at| from + u32::try_from(at).unwrap_or_default())
}

/// `nla_find`
fn find(attributes: &[u8], of_type: u32) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = attributes.get(at..)?;
        let (bytes, found) = nlattr(rest)?;
        if bytes < HEADER_BYTES || bytes > rest.len() {
            return None;
        }
        if u32::from(found) == of_type {
            return Some(at);
        }
        at += bytes.next_multiple_of(4);
    }
}

/// The length and the type of the attribute.
fn nlattr(bytes: &[u8]) -> Option<(usize, u16)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    // Two bits are no part of the type (`NLA_TYPE_MASK`).
    Some((u16::from_ne_bytes(*length).into(), u16::from_ne_bytes(*number) & 0x3fff))
}

fn index(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
