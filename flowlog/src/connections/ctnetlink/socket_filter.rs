//! A [`FlowFilter`] as a program for the kernel: classic BPF on the socket of a listener.
//!
//! The kernel runs it on each message before that goes to the receive buffer (`sk_filter` in
//! `do_one_broadcast`): what it refuses takes no room there, wakes nobody and is never copied. The extensions
//! `SKF_AD_NLATTR` and `SKF_AD_NLATTR_NEST` find attributes.
//!
//! The program has no loops. Where a message has what is asked for, it jumps forward to what follows from
//! that; else it goes on.

#[cfg(any(test, fuzzing))]
pub(crate) mod interpreter;

use std::net::IpAddr;

use super::uapi::*;
use crate::connections::filter::{Conditions, FlowFilter, Mark};
use crate::flow::Protocol;
use ipnet::IpNet;

/// `BPF_MAXINSNS`: how many instructions the kernel takes.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Where the attributes begin: behind `nlmsghdr` and `nfgenmsg`.
const ATTRIBUTES: u32 = 20;

/// Where the value of an attribute begins: behind `nlattr`.
const VALUE: u32 = 4;

/// `SKF_AD_OFF + SKF_AD_NLATTR`: A becomes the offset of the first attribute of the type X from A on, or 0.
const NLATTR: u32 = SKF_AD_OFF + 12;
/// `SKF_AD_OFF + SKF_AD_NLATTR_NEST`: the same within the attribute at A.
const NLATTR_NEST: u32 = SKF_AD_OFF + 16;
/// `SKF_AD_OFF`, -0x1000.
const SKF_AD_OFF: u32 = 0xffff_f000;

/// Operations, as `linux/filter.h` composes them.
pub(crate) mod op {
    /// `BPF_LD | BPF_IMM`
    pub(crate) const LOAD: u16 = 0x00;
    /// `BPF_LDX | BPF_IMM`
    pub(crate) const LOAD_X: u16 = 0x01;
    /// `BPF_LD | BPF_W | BPF_ABS`: the word at k, or what the extension k finds.
    pub(crate) const LOAD_AT: u16 = 0x20;
    /// `BPF_LD | BPF_W | BPF_IND`: the word at X + k, in host order.
    pub(crate) const LOAD_WORD: u16 = 0x40;
    /// `BPF_LD | BPF_H | BPF_IND`
    pub(crate) const LOAD_HALF: u16 = 0x48;
    /// `BPF_LD | BPF_B | BPF_IND`
    pub(crate) const LOAD_BYTE: u16 = 0x50;
    /// `BPF_MISC | BPF_TAX`: X = A.
    pub(crate) const TO_X: u16 = 0x07;
    /// `BPF_MISC | BPF_TXA`: A = X.
    pub(crate) const FROM_X: u16 = 0x87;
    /// `BPF_ALU | BPF_AND | BPF_K`
    pub(crate) const AND: u16 = 0x54;
    /// `BPF_JMP | BPF_JA`: skips k instructions.
    pub(crate) const JUMP: u16 = 0x05;
    /// `BPF_JMP | BPF_JEQ | BPF_K`: skips `jt` or `jf` instructions.
    pub(crate) const JUMP_EQUAL: u16 = 0x15;
    /// `BPF_RET | BPF_K`: takes the first k bytes of the message, or refuses it.
    pub(crate) const RETURN: u16 = 0x06;
}

/// `struct sock_filter`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions that are skipped where a comparison is true.
    pub jump_true: u8,
    /// Those where it is false.
    pub jump_false: u8,
    /// Its operand.
    pub k: u32,
}

/// A place that is jumped to.
#[derive(Clone, Copy, Debug)]
struct Label(usize);

/// The program as far as it is made.
#[derive(Debug, Default)]
struct Program {
    instructions: Vec<Instruction>,
    /// Jumps whose distance is not known yet, with where they go.
    jumps: Vec<(usize, Label)>,
    /// Where labels are.
    labels: Vec<usize>,
}

/// The program for the filter. Longer ones than [`MAX_INSTRUCTIONS`] are not for the kernel.
pub fn compile(filter: &FlowFilter) -> Vec<Instruction> {
    let FlowFilter { only, except } = filter;
    let mut program = Program::default();
    let refuse = program.label();
    each(except, |list| program.holds(list, refuse));
    each(only, |list| {
        let next = program.label();
        program.holds(list, next);
        program.jump(refuse);
        program.place(next);
    });
    program.add(op::RETURN, u32::MAX);
    program.place(refuse);
    program.add(op::RETURN, 0);
    program.finish()
}

/// One list of [`Conditions`].
enum List<'c> {
    Address(&'c [IpNet]),
    Protocol(&'c [Protocol]),
    Zone(&'c [u16]),
    Mark(&'c [Mark]),
}

/// Calls `f` with the lists that are not empty.
fn each(conditions: &Conditions, mut f: impl FnMut(List<'_>)) {
    let Conditions { address, protocol, zone, mark } = conditions;
    if !protocol.is_empty() {
        f(List::Protocol(protocol));
    }
    if !zone.is_empty() {
        f(List::Zone(zone));
    }
    if !mark.is_empty() {
        f(List::Mark(mark));
    }
    if !address.is_empty() {
        f(List::Address(address));
    }
}

impl Program {
    fn add(&mut self, code: u16, k: u32) {
        self.instructions.push(Instruction { code, jump_true: 0, jump_false: 0, k });
    }

    /// A label that is placed later.
    fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        let here = self.instructions.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = here;
        }
    }

    fn jump(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(op::JUMP, 0);
    }

    /// Jumps where A is `value`. Conditional jumps reach 255 instructions at most, so they only skip a jump.
    fn jump_if_equal(&mut self, value: u32, label: Label) {
        self.instructions.push(Instruction { code: op::JUMP_EQUAL, jump_true: 0, jump_false: 1, k: value });
        self.jump(label);
    }

    /// Jumps where A is another one.
    fn jump_unless_equal(&mut self, value: u32, label: Label) {
        self.instructions.push(Instruction { code: op::JUMP_EQUAL, jump_true: 1, jump_false: 0, k: value });
        self.jump(label);
    }

    fn finish(self) -> Vec<Instruction> {
        let Self { mut instructions, jumps, labels } = self;
        for (from, Label(label)) in jumps {
            let distance = labels.get(label).and_then(|to| to.checked_sub(from + 1));
            let distance = distance.and_then(|distance| u32::try_from(distance).ok());
            if let (Some(jump), Some(distance)) = (instructions.get_mut(from), distance) {
                jump.k = distance;
            }
        }
        instructions
    }

    /// X = the offset of the attribute at this path; goes to `absent` where it is not there.
    fn find(&mut self, path: &[u16], absent: Label) {
        self.add(op::LOAD, ATTRIBUTES);
        for (depth, attribute) in path.iter().enumerate() {
            self.add(op::LOAD_X, (*attribute).into());
            self.add(op::LOAD_AT, if depth == 0 { NLATTR } else { NLATTR_NEST });
            self.jump_if_equal(0, absent);
        }
        self.add(op::TO_X, 0);
    }

    /// Jumps to `hit` where the list holds for the message.
    fn holds(&mut self, list: List<'_>, hit: Label) {
        match list {
            List::Protocol(protocols) => {
                let path = [CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM];
                let numbers = protocols.iter().map(|protocol| u32::from(protocol.0));
                self.number(&path, op::LOAD_BYTE, numbers.map(|number| (number, None)), hit);
            }
            List::Zone(zones) => {
                let numbers = zones.iter().map(|zone| (u32::from(*zone), None));
                self.number(&[CTA_ZONE], op::LOAD_HALF, numbers, hit);
            }
            List::Mark(marks) => {
                let numbers = marks.iter().map(|Mark { value, mask }| (*value, Some(*mask)));
                self.number(&[CTA_MARK], op::LOAD_WORD, numbers, hit);
            }
            List::Address(networks) => {
                for tuple in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
                    for (v4, v6) in [(CTA_IP_V4_SRC, CTA_IP_V6_SRC), (CTA_IP_V4_DST, CTA_IP_V6_DST)] {
                        self.address(
                            &[tuple, CTA_TUPLE_IP, v4],
                            networks,
                            |network| network.addr().is_ipv4(),
                            hit,
                        );
                        self.address(
                            &[tuple, CTA_TUPLE_IP, v6],
                            networks,
                            |network| network.addr().is_ipv6(),
                            hit,
                        );
                    }
                }
            }
        }
    }

    /// Jumps to `hit` where the number, which is 0 where it is absent, is one of these in the bits of the mask.
    fn number(
        &mut self,
        path: &[u16],
        load: u16,
        numbers: impl Iterator<Item = (u32, Option<u32>)>,
        hit: Label,
    ) {
        let (absent, compare) = (self.label(), self.label());
        self.find(path, absent);
        self.add(load, VALUE);
        self.jump(compare);
        self.place(absent);
        self.add(op::LOAD, 0);
        self.place(compare);
        // X keeps the number, which the mask changes in A.
        self.add(op::TO_X, 0);
        for (number, mask) in numbers {
            if let Some(mask) = mask {
                self.add(op::FROM_X, 0);
                self.add(op::AND, mask);
            }
            self.jump_if_equal(number, hit);
        }
    }

    /// Jumps to `hit` where the address is in one of those networks that are of its family.
    fn address(&mut self, path: &[u16], networks: &[IpNet], is_family: fn(&IpNet) -> bool, hit: Label) {
        if !networks.iter().any(is_family) {
            return;
        }
        let absent = self.label();
        self.find(path, absent);
        for network in networks.iter().filter(|network| is_family(network)) {
            let differs = self.label();
            for (offset, (value, mask)) in (VALUE..).step_by(4).zip(words(network)) {
                self.add(op::LOAD_WORD, offset);
                self.add(op::AND, mask);
                self.jump_unless_equal(value, differs);
            }
            self.jump(hit);
            self.place(differs);
        }
        self.place(absent);
    }
}

/// The network and its mask as words, without those at the end of which no bit counts.
fn words(network: &IpNet) -> impl Iterator<Item = (u32, u32)> {
    let (network, mask) = (octets(network.network()), octets(network.netmask()));
    let words = |octets: Vec<u8>| {
        let words = octets.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word));
        words.collect::<Vec<_>>()
    };
    words(network).into_iter().zip(words(mask)).filter(|(_, mask)| *mask != 0)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::interpreter::takes;
    use super::*;
    use crate::connections::ctnetlink::properties::flow;
    use crate::connections::ctnetlink::{decode, encode};
    use crate::flow::{Flow, L4, Tuple};

    /// Networks, numbers and marks around what is in the flow, so that they hold about as often as not.
    fn conditions(flow: &Flow) -> impl Strategy<Value = Conditions> + use<> {
        let addresses = [flow.orig.src, flow.orig.dst, flow.reply.src, flow.reply.dst];
        let address =
            (proptest::sample::select(addresses.to_vec()), 0..=128_u8, prop::option::of(0..128_u32));
        let address = address.prop_map(|(address, length, other_bit)| {
            let length = length.min(if address.is_ipv4() { 32 } else { 128 });
            let address = match (address, other_bit) {
                (address, None) => address,
                (IpAddr::V4(address), Some(bit)) => IpAddr::V4((address.to_bits() ^ 1 << (bit % 32)).into()),
                (IpAddr::V6(address), Some(bit)) => IpAddr::V6((address.to_bits() ^ 1 << bit).into()),
            };
            IpNet::new(address, length).unwrap().trunc()
        });
        let protocol = proptest::sample::select(vec![flow.orig.proto, Protocol::TCP, Protocol::UDP]);
        let zone = proptest::sample::select(vec![flow.zone.unwrap_or(0), 0, 1]);
        let mark = (proptest::sample::select(vec![flow.mark.unwrap_or(0), 0]), any::<u32>());
        let mark = mark.prop_map(|(mark, mask)| Mark { value: mark & mask, mask });
        let lists = (
            prop::collection::vec(address, 0..4),
            prop::collection::vec(protocol, 0..3),
            prop::collection::vec(zone, 0..3),
            prop::collection::vec(mark, 0..3),
        );
        lists.prop_map(|(address, protocol, zone, mark)| Conditions { address, protocol, zone, mark })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_kernel_takes_what_is_recorded(
            (flow, only, except) in flow().prop_flat_map(|flow| {
                let conditions = (conditions(&flow), conditions(&flow));
                (Just(flow), conditions.0, conditions.1)
            })
        ) {
            let mut message = Vec::new();
            encode::create(&mut message, 1, 0, &flow);
            let decoded = decode::messages(&message).next().unwrap().unwrap();
            let flow = decode::flow(decoded.payload).unwrap().flow;
            for filter in [
                FlowFilter { only: only.clone(), except: Conditions::default() },
                FlowFilter { only: Conditions::default(), except: except.clone() },
                FlowFilter { only, except },
            ] {
                prop_assert_eq!(takes(&compile(&filter), &message), Some(filter.records(&flow)), "{:?}", filter);
            }
        }
    }

    #[test]
    fn jumps_reach_over_long_lists() {
        let network = |number: u32| IpNet::new(IpAddr::V4((number << 8).into()), 24).unwrap();
        let address = (0..150).map(network).collect();
        let except = Conditions { address, ..Conditions::default() };
        let filter = FlowFilter { only: Conditions::default(), except };
        let program = compile(&filter);
        assert!((1000..MAX_INSTRUCTIONS).contains(&program.len()), "{}", program.len());
        for (number, is_taken) in [(0, false), (100, false), (149, false), (150, true)] {
            let address = network(number).network();
            let tuple = Tuple { src: address, dst: address, proto: Protocol::TCP, l4: L4::None, zone: None };
            let mut message = Vec::new();
            encode::create(&mut message, 1, 0, &Flow::new(tuple, tuple));
            assert_eq!(takes(&program, &message), Some(is_taken), "{number}");
        }
    }
}
