//! Requests to ctnetlink as bytes.
//!
//! No IO. Each function appends one message to the buffer of its caller, so that several can be sent
//! at once. `sequence` comes back in the answers; `flags` are added to the ones that the request needs
//! (`NLM_F_ACK` asks for an answer also where there is no error).

use super::nla::write_length;
use super::sets::{Entry, Expectation, Set};
use super::uapi::*;
use crate::flow::{Flow, Tuple};

/// What a request is for: `nlmsg_type` in its two parts, `nlmsg_seq`, `nlmsg_flags` without
/// `NLM_F_REQUEST`, `nfgen_family` and `version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `NFNL_SUBSYS_*`
    pub subsystem: u8,
    /// `IPCTNL_MSG_*`
    pub operation: u8,
    /// Comes back in the answers.
    pub sequence: u32,
    /// `NLM_F_*`
    pub flags: u16,
    /// `AF_INET`, `AF_INET6`, or `AF_UNSPEC` where the kernel takes both.
    pub family: u8,
    /// `NFNETLINK_V0`, except where the kernel is to look at the family of a flush.
    pub version: u8,
    /// `nfgenmsg.res_id`: of whom a transaction is.
    pub resource: u16,
}

/// Makes an entry that does not exist yet.
///
/// What the kernel fills in itself is left out: id, counters, timestamps. It wants a timeout
/// (`EINVAL` else), and where there is a status, it must have `IPS_CONFIRMED` (`EBUSY` else).
pub fn create(buffer: &mut Vec<u8>, sequence: u32, flags: u16, flow: &Flow) {
    let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
    entry(buffer, IPCTNL_MSG_CT_NEW, sequence, flags, &flow.into());
}

/// Asks for the entry with this original tuple, in the zone of the entry (`CTA_ZONE`).
pub fn get(buffer: &mut Vec<u8>, sequence: u32, flags: u16, orig: &Tuple, zone: Option<u16>) {
    entry(buffer, IPCTNL_MSG_CT_GET, sequence, flags, &by_tuple(orig, zone));
}

/// Removes the entry with this original tuple, in the zone of the entry (`CTA_ZONE`).
pub fn delete(buffer: &mut Vec<u8>, sequence: u32, flags: u16, orig: &Tuple, zone: Option<u16>) {
    entry(buffer, IPCTNL_MSG_CT_DELETE, sequence, flags, &by_tuple(orig, zone));
}

/// Removes all entries of the network namespace.
pub fn flush(buffer: &mut Vec<u8>, sequence: u32, flags: u16) {
    conntrack(buffer, IPCTNL_MSG_CT_DELETE, sequence, flags);
}

/// Asks for all entries.
pub fn dump(buffer: &mut Vec<u8>, sequence: u32, flags: u16) {
    conntrack(buffer, IPCTNL_MSG_CT_GET, sequence, flags | NLM_F_DUMP);
}

/// Asks for the number of entries.
pub fn stats(buffer: &mut Vec<u8>, sequence: u32, flags: u16) {
    conntrack(buffer, IPCTNL_MSG_CT_GET_STATS, sequence, flags);
}

/// An operation on one entry, with whatever is set in it. The family is the one of its tuples.
pub fn entry(buffer: &mut Vec<u8>, operation: u8, sequence: u32, flags: u16, entry: &Entry) {
    set(buffer, (NFNL_SUBSYS_CTNETLINK, operation), sequence, flags, entry.family(), entry);
}

/// An operation on one expectation. The family is the one of its tuples.
pub fn expectation(
    buffer: &mut Vec<u8>,
    operation: u8,
    sequence: u32,
    flags: u16,
    expectation: &Expectation,
) {
    set(buffer, (NFNL_SUBSYS_CTNETLINK_EXP, operation), sequence, flags, expectation.family(), expectation);
}

fn set(
    buffer: &mut Vec<u8>,
    (subsystem, operation): (u8, u8),
    sequence: u32,
    flags: u16,
    family: Option<u8>,
    set: &impl Set,
) {
    let family = family.unwrap_or(AF_UNSPEC);
    let header = Request { subsystem, operation, sequence, flags, family, ..Request::default() };
    request(buffer, header, |buffer| set.encode_all(buffer));
}

/// What identifies an entry.
pub(super) fn by_tuple(orig: &Tuple, zone: Option<u16>) -> Entry {
    Entry { orig: Some(orig.into()), zone, ..Entry::default() }
}

fn conntrack(buffer: &mut Vec<u8>, operation: u8, sequence: u32, flags: u16) {
    let subsystem = NFNL_SUBSYS_CTNETLINK;
    request(buffer, Request { subsystem, operation, sequence, flags, ..Request::default() }, |_| {});
}

/// Appends `struct nlmsghdr`, `struct nfgenmsg` and what `fill` appends.
pub(super) fn request(buffer: &mut Vec<u8>, request: Request, fill: impl FnOnce(&mut Vec<u8>)) {
    let Request { subsystem, operation, sequence, flags, family, version, resource } = request;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&u16::from_be_bytes([subsystem, operation]).to_ne_bytes());
    buffer.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[family, version]);
    buffer.extend_from_slice(&resource.to_be_bytes());
    fill(buffer);
    write_length(buffer, start, u32::to_ne_bytes);
}
