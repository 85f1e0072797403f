//! Requests to connection tracking and to other parts of netfilter that tell of it, each with its answer.
//!
//! The kernel works on a request while it is sent; the answers then wait in the socket.

mod entries;

use std::io;

use netlink_sys::Socket;
use nix::errno::Errno;

use super::decode::{self, DecodeError, Decoded, Message, messages};
use super::encode::{self, Request};
use super::nla::{Attributes, attribute};
use super::sets::Set;
use super::socket::{Error, is_unknown_request, open_socket};
use super::table;
use super::uapi::*;
use crate::flow::{Flow, Tuple};

pub use entries::{Filter, Listed};

/// Room for one datagram of an answer; the kernel sends at most 32 KiB at once (`netlink_dump`).
const ANSWER_BYTES: usize = 64 * 1024;

/// Entries that are made with one system call. If the kernel refuses all of them, that many answers
/// wait in the socket at once; they fit into the default receive buffer (208 KiB).
const CREATE_AT_ONCE: usize = 64;

/// What connection tracking hooks in there, by IP version (`nf_conntrack_proto.c`).
const HOOKS: [(u8, &[u8]); 2] = [(AF_INET, b"ipv4_conntrack_in"), (AF_INET6, b"ipv6_conntrack_in")];

/// A socket for requests, with blocking calls.
#[derive(Debug)]
pub struct Requests {
    /// Never cloned: a clone would close the descriptor twice.
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Box<[u8]>,
}

impl Requests {
    /// Opens in the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        let socket = open_socket()?;
        Ok(Self {
            socket,
            sequence: 0,
            request: Vec::new(),
            answer: vec![0; ANSWER_BYTES].into_boxed_slice(),
        })
    }

    /// How many entries there are. The cheapest request, so also the probe whether the kernel has
    /// ctnetlink: [`Error::NoCtnetlink`].
    pub fn count(&mut self) -> Result<u32, Error> {
        const REQUEST: &str = "count conntrack entries";
        match self.statistics() {
            Err(Error::Io { source, .. }) if is_unknown_request(&source) => Err(Error::NoCtnetlink(source)),
            result => {
                let missing = DecodeError::Missing {
                    attribute: "CTA_STATS_GLOBAL_ENTRIES",
                    parent: "the answer to IPCTNL_MSG_CT_GET_STATS",
                };
                result?.entries.ok_or(Error::Answer { request: REQUEST, source: missing })
            }
        }
    }

    /// The entry with this original tuple in this zone, if there is one.
    pub fn get(&mut self, orig: &Tuple, zone: Option<u16>) -> Result<Option<Flow>, Error> {
        let sequence = self.begin();
        encode::get(&mut self.request, sequence, NLM_F_ACK, orig, zone);
        self.found("find a conntrack entry", sequence, |payload| Ok(decode::flow(payload)?.flow))
    }

    /// Calls `each` with all entries. While it runs, entries come and go; one that is not there during
    /// the whole dump may be left out. An entry that cannot be read is passed on as its error.
    pub fn dump(&mut self, mut each: impl FnMut(Result<Decoded, DecodeError>)) -> Result<(), Error> {
        let sequence = self.begin();
        encode::dump(&mut self.request, sequence, 0);
        self.exchange("list the conntrack entries", sequence, |message| {
            each(decode::flow(message.payload));
            Ok(())
        })
    }

    /// Makes entries; see [`encode::create`] for what the kernel wants of them.
    ///
    /// All are tried. The error is the one of the first that the kernel refused: `EEXIST` where there
    /// is an entry with one of the tuples.
    pub fn create<'a>(&mut self, flows: impl IntoIterator<Item = &'a Flow>) -> Result<(), Error> {
        let mut flows = flows.into_iter().peekable();
        let mut result = Ok(());
        while flows.peek().is_some() {
            let first = self.begin();
            let mut count = 0;
            while let Some(flow) = flows.next_if(|_| count < CREATE_AT_ONCE) {
                count += 1;
                // Errors are answered always. Success is worth an answer only at the end.
                let last = count == CREATE_AT_ONCE || flows.peek().is_none();
                let flags = if last { NLM_F_ACK } else { 0 };
                encode::create(&mut self.request, self.sequence, flags, flow);
                if !last {
                    self.sequence = self.sequence.wrapping_add(1);
                }
            }
            let batch = self.exchange("make conntrack entries", first, |_| Ok(()));
            result = result.and(batch);
        }
        result
    }

    /// Removes the entry with this original tuple in this zone. Whether there was one.
    pub fn delete(&mut self, orig: &Tuple, zone: Option<u16>) -> Result<bool, Error> {
        let sequence = self.begin();
        encode::delete(&mut self.request, sequence, NLM_F_ACK, orig, zone);
        Ok(absent(self.exchange("remove a conntrack entry", sequence, |_| Ok(())))?.is_some())
    }

    /// Removes all entries of the network namespace.
    pub fn flush(&mut self) -> Result<(), Error> {
        let sequence = self.begin();
        encode::flush(&mut self.request, sequence, NLM_F_ACK);
        self.exchange("remove all conntrack entries", sequence, |_| Ok(()))
    }

    /// What the answer to a request has; `None` where the kernel says that there is no such thing.
    fn found<T>(
        &mut self,
        request: &'static str,
        sequence: u32,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        let result = self.exchange(request, sequence, |message| {
            found = Some(decode(message.payload)?);
            Ok(())
        });
        Ok(absent(result)?.and(found))
    }

    /// Calls `each` with the number of a CPU and its counters.
    fn for_each_cpu<T: Set>(
        &mut self,
        request: &'static str,
        sequence: u32,
        mut each: impl FnMut(u16, T),
    ) -> Result<(), Error> {
        self.exchange(request, sequence, |message| {
            let (cpu, statistics) = decode::statistics(message.payload)?;
            each(cpu, statistics);
            Ok(())
        })
    }

    /// Makes a request without attributes; gives its sequence number, which is not yet in `header`.
    fn without_attributes(&mut self, header: Request) -> u32 {
        let sequence = self.begin();
        encode::request(&mut self.request, Request { sequence, ..header }, |_| {});
        sequence
    }

    /// Starts with an empty request and the next sequence number.
    fn begin(&mut self) -> u32 {
        self.request.clear();
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends what was encoded with the sequence numbers `first..=self.sequence` and reads answers up
    /// to the end of the last. `each` gets those that are no acknowledgement.
    fn exchange(
        &mut self,
        request: &'static str,
        first: u32,
        mut each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        let io_error = |source| Error::io(request, source);
        let last = self.sequence;
        self.socket.send(&self.request, 0).map_err(io_error)?;
        let mut result = Ok(());
        loop {
            let len = match self.socket.recv(&mut &mut self.answer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                len => len.map_err(io_error)?,
            };
            for message in messages(self.answer.get(..len).unwrap_or_default()) {
                let message = message.map_err(|source| Error::Answer { request, source })?;
                // What is left of an exchange that ended early.
                if message.sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                let outcome = match message.message_type {
                    NLMSG_ERROR | NLMSG_DONE => error_number(&message).map_err(io_error),
                    _ => each(&message).map_err(|source| Error::Answer { request, source }),
                };
                // Of lists that know it: something changed meanwhile, and may be missing.
                let outcome = match message.flags & NLM_F_DUMP_INTR {
                    0 => outcome,
                    _ => outcome.and(Err(io_error(Errno::EINTR.into()))),
                };
                result = result.and(outcome);
                if message.sequence == last && matches!(message.message_type, NLMSG_ERROR | NLMSG_DONE) {
                    return result;
                }
            }
        }
    }

    /// Calls `each` with a message for each rule of nftables, those of iptables-nft included.
    ///
    /// # Errors
    ///
    /// Also where the kernel has no nftables, and where rules change while they are listed.
    pub fn rules(&mut self, each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>) -> Result<(), Error> {
        self.nftables("list the rules of nftables", NFT_MSG_GETRULE, NLM_F_DUMP, each)
    }

    /// The number of the last transaction of nftables, for `each` of one message.
    ///
    /// # Errors
    ///
    /// Also where the kernel has no nftables.
    pub fn generation(
        &mut self,
        each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        self.nftables("ask for the generation of nftables", NFT_MSG_GETGEN, NLM_F_ACK, each)
    }

    fn nftables(
        &mut self,
        request: &'static str,
        operation: u8,
        flags: u16,
        mut each: impl FnMut(&Message<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        let header = Request { subsystem: NFNL_SUBSYS_NFTABLES, operation, flags, ..Request::default() };
        let sequence = self.without_attributes(header);
        self.exchange(request, sequence, |message| each(message))
    }

    /// Adds the table `inet flowlog`, whose rules make the kernel track all connections of the network namespace. If it
    /// is there already, it is made anew, and no moment is without it.
    ///
    /// # Errors
    ///
    /// Also where the kernel has no nftables.
    pub fn add_table(&mut self) -> Result<(), Error> {
        let sequence = self.begin();
        table::add(&mut self.request, sequence);
        self.exchange("add the nftables table `inet flowlog`", sequence, |_| Ok(()))
    }

    /// Whether connection tracking is hooked in for an IP version, as `nft list hooks` shows. `None` where the kernel
    /// does not name its functions.
    ///
    /// # Errors
    ///
    /// Also where the kernel does not list hooks: it does since Linux 5.14, with `CONFIG_NETFILTER_NETLINK_HOOK`.
    pub fn is_hooked(&mut self, is_ipv6: bool) -> Result<Option<bool>, Error> {
        let [ipv4, ipv6] = HOOKS;
        let (family, function) = if is_ipv6 { ipv6 } else { ipv4 };
        let header = Request {
            subsystem: NFNL_SUBSYS_HOOK,
            operation: NFNL_MSG_HOOK_GET,
            sequence: self.begin(),
            flags: NLM_F_DUMP,
            family,
            ..Request::default()
        };
        encode::request(&mut self.request, header, |buffer| {
            attribute(buffer, NFNLA_HOOK_HOOKNUM, &NF_INET_PRE_ROUTING.to_be_bytes());
        });
        let (mut is_hooked, mut is_named) = (false, true);
        self.exchange("list the hooks of netfilter", header.sequence, |message| {
            let name = function_name(message.payload)?;
            is_named &= name.is_some();
            is_hooked |= name == Some(function);
            Ok(())
        })?;
        Ok((is_hooked || is_named).then_some(is_hooked))
    }

    /// How many packets connection tracking found to be of no connection, of all processors together; a number that
    /// goes round.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell.
    pub fn invalid(&mut self) -> Result<u32, Error> {
        let mut invalid = 0_u32;
        self.cpu_statistics(|_, statistics| {
            invalid = invalid.wrapping_add(statistics.invalid.unwrap_or_default());
        })?;
        Ok(invalid)
    }
}

/// The error in `NLMSG_ERROR` (`struct nlmsgerr`) and `NLMSG_DONE`: a negative errno. Zero is success.
fn error_number(message: &Message<'_>) -> io::Result<()> {
    match message.payload.first_chunk().copied().map(i32::from_ne_bytes) {
        Some(number) if number < 0 => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        _ => Ok(()),
    }
}

/// The result of a request about one thing: nothing where the kernel does not find it.
fn absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The name of the function in a message about a hook.
fn function_name(payload: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut name = None;
    for attribute in Attributes::new(decode::attributes(payload)?, "a hook") {
        let attribute = attribute?;
        if attribute.kind == NFNLA_HOOK_FUNCTION_NAME {
            name = attribute.payload.split(|byte| *byte == 0).next();
        }
    }
    Ok(name)
}
