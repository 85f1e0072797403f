//! Requests to other parts of netfilter, which tell whether connections are tracked.

use super::super::decode;
use super::super::decode::{DecodeError, Message};
use super::super::encode::{self, Request};
use super::super::nla::{Attributes, attribute};
use super::super::socket::Error;
use super::super::uapi::*;
use super::Requests;

/// The first of the hooks of connection tracking, by the number of `enum nf_inet_hooks`.
const NF_INET_PRE_ROUTING: u32 = 0;

/// What connection tracking hooks in there, by IP version (`nf_conntrack_proto.c`).
const HOOKS: [(u8, &[u8]); 2] = [(AF_INET, b"ipv4_conntrack_in"), (AF_INET6, b"ipv6_conntrack_in")];

impl Requests {
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
            version: NFNETLINK_V0,
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
