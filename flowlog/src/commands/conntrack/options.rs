//! The options of conntrack(8). Those of a protocol have their names in `protocols`.

/// Declares options with the list of them, [`ALL`](Opt::ALL).
macro_rules! in_order {
    ($(#[$doc:meta])* $options:ident { $($option:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $options {
            $($option,)*
        }

        impl $options {
            /// All of them, in the order in which conntrack(8) checks them.
            pub(super) const ALL: &[Self] = &[$(Self::$option,)*];
        }
    };
}

in_order! {
    /// An option of conntrack(8) itself.
    Opt {
        Src,
        Dst,
        ReplySrc,
        ReplyDst,
        Proto,
        Timeout,
        Status,
        Zero,
        EventMask,
        TupleSrc,
        TupleDst,
        MaskSrc,
        MaskDst,
        Mark,
        Id,
        Family,
        SrcNat,
        DstNat,
        Output,
        Secmark,
        BufferSize,
        AnyNat,
        Zone,
        Label,
        LabelAdd,
        LabelDel,
        OrigZone,
        ReplyZone,
    }
}

in_order! {
    /// An option of a protocol. Ports are keys for GRE.
    ProtoOpt {
        SrcPort,
        DstPort,
        ReplySrcPort,
        ReplyDstPort,
        MaskSrcPort,
        MaskDstPort,
        State,
        TupleSrcPort,
        TupleDstPort,
        OrigVtag,
        ReplyVtag,
        Role,
        IcmpType,
        IcmpCode,
        IcmpId,
    }
}

impl Opt {
    /// Its name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Src => "src",
            Self::Dst => "dst",
            _ => OPTIONS.iter().find(|spec| spec.what == What::Opt(self)).map_or("", |spec| spec.long),
        }
    }
}

/// What an option of the command line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A command, by its letter.
    Command(char),
    /// An option of conntrack(8) itself.
    Opt(Opt),
    /// An option of the protocol that `-p` named.
    Protocol(ProtoOpt),
    /// Taken and ignored, as it was before conntrack(8) 1.0.
    NatRange,
}

/// Whether an option has a value. An optional one may be the next argument too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value,
    OptionalValue,
}

/// An option of the command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
    pub(super) what: What,
}

const fn command(long: &'static str, short: char) -> Spec {
    Spec { long, short: Some(short), takes: Takes::OptionalValue, what: What::Command(short) }
}

const fn option(long: &'static str, short: Option<char>, takes: Takes, opt: Opt) -> Spec {
    Spec { long, short, takes, what: What::Opt(opt) }
}

/// All of them. Where two mean the same, the first names it in messages.
pub(super) const OPTIONS: &[Spec] = &[
    command("dump", 'L'),
    command("create", 'I'),
    command("add", 'A'),
    command("delete", 'D'),
    command("update", 'U'),
    command("get", 'G'),
    command("flush", 'F'),
    command("event", 'E'),
    command("counter", 'C'),
    Spec { takes: Takes::Nothing, ..command("stats", 'S') },
    Spec { takes: Takes::Nothing, ..command("version", 'V') },
    Spec { takes: Takes::Nothing, ..command("help", 'h') },
    option("orig-src", Some('s'), Takes::Value, Opt::Src),
    option("src", Some('s'), Takes::Value, Opt::Src),
    option("orig-dst", Some('d'), Takes::Value, Opt::Dst),
    option("dst", Some('d'), Takes::Value, Opt::Dst),
    option("reply-src", Some('r'), Takes::Value, Opt::ReplySrc),
    option("reply-dst", Some('q'), Takes::Value, Opt::ReplyDst),
    option("protonum", Some('p'), Takes::Value, Opt::Proto),
    option("timeout", Some('t'), Takes::Value, Opt::Timeout),
    option("status", Some('u'), Takes::Value, Opt::Status),
    option("zero", Some('z'), Takes::Nothing, Opt::Zero),
    option("event-mask", Some('e'), Takes::Value, Opt::EventMask),
    option("tuple-src", None, Takes::Value, Opt::TupleSrc),
    option("tuple-dst", None, Takes::Value, Opt::TupleDst),
    option("mask-src", None, Takes::Value, Opt::MaskSrc),
    option("mask-dst", None, Takes::Value, Opt::MaskDst),
    Spec { long: "nat-range", short: Some('a'), takes: Takes::Value, what: What::NatRange },
    option("mark", Some('m'), Takes::Value, Opt::Mark),
    option("secmark", Some('c'), Takes::Value, Opt::Secmark),
    option("id", Some('i'), Takes::Value, Opt::Id),
    option("family", Some('f'), Takes::Value, Opt::Family),
    option("src-nat", Some('n'), Takes::OptionalValue, Opt::SrcNat),
    option("dst-nat", Some('g'), Takes::OptionalValue, Opt::DstNat),
    option("output", Some('o'), Takes::Value, Opt::Output),
    option("buffer-size", Some('b'), Takes::Value, Opt::BufferSize),
    option("any-nat", Some('j'), Takes::OptionalValue, Opt::AnyNat),
    option("zone", Some('w'), Takes::Value, Opt::Zone),
    option("label", Some('l'), Takes::Value, Opt::Label),
    option("label-add", None, Takes::Value, Opt::LabelAdd),
    option("label-del", None, Takes::OptionalValue, Opt::LabelDel),
    option("orig-zone", None, Takes::Value, Opt::OrigZone),
    option("reply-zone", None, Takes::Value, Opt::ReplyZone),
];

/// The option of a letter.
pub(super) fn short(letter: char) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.short == Some(letter))
}

/// The option of a name, or of the beginning of a name that only one option has (getopt_long(3)).
/// `more` are the options of the protocol.
pub(super) fn long(name: &str, more: &'static [Spec]) -> Option<&'static Spec> {
    let all = || OPTIONS.iter().chain(more);
    if let Some(spec) = all().find(|spec| spec.long == name) {
        return Some(spec);
    }
    let mut candidates = all().filter(|spec| spec.long.starts_with(name));
    let first = candidates.next()?;
    candidates.all(|other| other.what == first.what).then_some(first)
}
