//! What conntrack(8) can be told to do, and which options each of that takes.

use super::failure::Failure;
use super::options::Opt;

/// A command, by its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    List,
    Create,
    Add,
    Update,
    Delete,
    Get,
    Flush,
    Event,
    Count,
    Stats,
    Version,
    Help,
    ExpList,
    ExpCreate,
    ExpDelete,
    ExpGet,
    ExpFlush,
    ExpEvent,
    ExpCount,
    ExpStats,
}

/// The table of a command. The last two can only be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Conntrack,
    Expect,
    Dying,
    Unconfirmed,
}

impl Table {
    /// By its name or the beginning of it.
    pub(super) fn parse(name: &str) -> Result<Self, Failure> {
        const NAMES: [(&str, Table); 4] = [
            ("expect", Table::Expect),
            ("conntrack", Table::Conntrack),
            ("dying", Table::Dying),
            ("unconfirmed", Table::Unconfirmed),
        ];
        let found = NAMES.into_iter().find(|(table, _)| table.starts_with(name));
        found.map(|(_, table)| table).ok_or_else(|| Failure::usage(format!("unknown type `{name}'")))
    }
}

impl Command {
    /// The command of a letter on a table; `long` is the name of its option, for the error.
    pub(super) fn parse(letter: char, long: &str, table: Table) -> Result<Self, Failure> {
        if matches!(table, Table::Dying | Table::Unconfirmed) && letter != 'L' {
            let text = "Can't do that command with tables `dying' and `unconfirmed'";
            return Err(Failure::usage(text));
        }
        let expect = table == Table::Expect;
        Ok(match letter {
            'L' if expect => Self::ExpList,
            'L' => Self::List,
            'I' if expect => Self::ExpCreate,
            'I' => Self::Create,
            'D' if expect => Self::ExpDelete,
            'D' => Self::Delete,
            'G' if expect => Self::ExpGet,
            'G' => Self::Get,
            'F' if expect => Self::ExpFlush,
            'F' => Self::Flush,
            'E' if expect => Self::ExpEvent,
            'E' => Self::Event,
            'C' if expect => Self::ExpCount,
            'C' => Self::Count,
            'S' if expect => Self::ExpStats,
            'S' => Self::Stats,
            'A' | 'U' if expect => return Err(Failure::usage(format!("Can't do --{long} on expectations"))),
            'A' => Self::Add,
            'U' => Self::Update,
            'V' => Self::Version,
            _ => Self::Help,
        })
    }

    /// What it prints to stderr at the end, after the number.
    pub(super) fn summary(self) -> Option<&'static str> {
        Some(match self {
            Self::List | Self::Get => "flow entries have been shown.",
            Self::Create => "flow entries have been created.",
            Self::Add => "flow entries have been added.",
            Self::Update => "flow entries have been updated.",
            Self::Delete => "flow entries have been deleted.",
            Self::Event => "flow events have been shown.",
            Self::ExpEvent => "expectation events have been shown.",
            Self::ExpList | Self::ExpDelete => "expectations have been shown.",
            _ => return None,
        })
    }

    /// Which options it takes.
    pub(super) fn rules(self) -> Rules {
        use Opt::*;
        const ADDRESSES: &[Opt] = &[Src, Dst, ReplySrc, ReplyDst];
        /// What entries are chosen by.
        const FILTER: &[Opt] = &[
            Src, Dst, ReplySrc, ReplyDst, Proto, MaskSrc, MaskDst, Mark, Family, SrcNat, DstNat, Output,
            Secmark, Zone, Label, OrigZone, ReplyZone,
        ];
        match self {
            Self::List => Rules { optional: &[FILTER, &[Status, Zero, AnyNat]], ..NONE },
            Self::Event => Rules { optional: &[FILTER, &[EventMask, BufferSize, AnyNat]], ..NONE },
            Self::Create | Self::Add => Rules {
                required: &[Proto, Timeout],
                one_direction: true,
                optional: &[ADDRESSES, &[Status, Mark, SrcNat, DstNat, Zone, LabelAdd, OrigZone, ReplyZone]],
            },
            Self::Update => Rules {
                optional: &[
                    ADDRESSES,
                    &[Proto, Timeout, Status, MaskSrc, MaskDst, Mark, Id, Family, SrcNat, DstNat, Output],
                    &[Label, LabelAdd, LabelDel],
                ],
                ..NONE
            },
            Self::Delete => Rules {
                optional: &[
                    ADDRESSES,
                    &[Proto, Timeout, Status, MaskSrc, MaskDst, Mark, Id, Family, SrcNat, DstNat, Output],
                    &[Zone, Label, OrigZone, ReplyZone],
                ],
                ..NONE
            },
            Self::Get => Rules {
                required: &[Proto],
                one_direction: true,
                optional: &[ADDRESSES, &[Id, Output, Label]],
            },
            Self::Flush => Rules { optional: &[&[Family]], ..NONE },
            Self::Help => Rules { optional: &[&[Proto]], ..NONE },
            Self::ExpList => Rules { optional: &[&[Family, Output]], ..NONE },
            Self::ExpEvent => Rules { optional: &[&[Output]], ..NONE },
            Self::ExpCreate => Rules {
                required: &[Src, Dst, Proto, Timeout, TupleSrc, TupleDst, MaskSrc, MaskDst],
                optional: &[&[ReplySrc, ReplyDst, Status]],
                ..NONE
            },
            Self::ExpDelete | Self::ExpGet => {
                Rules { required: &[Src, Dst, Proto], optional: &[&[ReplySrc, ReplyDst]], ..NONE }
            }
            Self::Count | Self::Stats | Self::Version => NONE,
            Self::ExpFlush | Self::ExpCount | Self::ExpStats => NONE,
        }
    }
}

/// Which options a command takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// It fails without these.
    pub(super) required: &'static [Opt],
    /// It needs both addresses of one direction.
    pub(super) one_direction: bool,
    /// It also takes these.
    pub(super) optional: &'static [&'static [Opt]],
}

/// A command without options.
pub(super) const NONE: Rules = Rules { required: &[], one_direction: false, optional: &[] };

impl Rules {
    /// Holds the options that were given against the rules.
    pub(super) fn check(&self, given: &[Opt]) -> Result<(), Failure> {
        for &opt in Opt::ALL {
            let required = self.required.contains(&opt);
            let allowed = required || self.optional.iter().any(|opts| opts.contains(&opt));
            check_option(opt.name(), required, allowed, given.contains(&opt))?;
        }
        let pairs = [(Opt::Src, Opt::Dst), (Opt::ReplySrc, Opt::ReplyDst)];
        if self.one_direction {
            whole_pair(given, pairs, ["`--src' and `--dst'", "`--reply-src' and `--reply-dst'"])?;
        }
        Ok(())
    }
}

/// Whether an option was given where a command needs it, and only where it takes it.
pub(super) fn check_option(name: &str, required: bool, allowed: bool, given: bool) -> Result<(), Failure> {
    match given {
        false if required => {
            Err(Failure::usage(format!("You need to supply the `--{name}' option for this command")))
        }
        true if !allowed => Err(Failure::usage(format!("Illegal option `--{name}' with this command"))),
        _ => Ok(()),
    }
}

/// Both of one of two pairs must be there. The error names the pair of which there is a part.
pub(super) fn whole_pair<T: PartialEq>(
    given: &[T],
    pairs: [(T, T); 2],
    names: [&str; 2],
) -> Result<(), Failure> {
    let has = |opt: &T| given.contains(opt);
    if pairs.iter().any(|(first, second)| has(first) && has(second)) {
        return Ok(());
    }
    let [(first, second), (reply_first, reply_second)] = &pairs;
    let only_reply = !has(first) && !has(second) && (has(reply_first) || has(reply_second));
    let [orig, reply] = names;
    let name = if only_reply { reply } else { orig };
    Err(Failure::usage(format!("you have to specify {name}")))
}
