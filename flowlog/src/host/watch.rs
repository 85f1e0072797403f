//! Looks at what a network namespace has of what flowlog needs: sysctls, and whether its connections are tracked.
//!
//! A [`NamespaceWatch`] belongs to the namespace in which the calling thread was when it was opened. It is cheap
//! enough for many looks in a second: files of sysctls stay open, and the kernel tells of each change of the rules.

mod probe;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::causes::one_line;
use crate::connections::ctnetlink::{Buffers, Delivery, Error, Group, Listener, Received, Requests, decode};
use crate::host::needs::Need;
use crate::host::nft_rules::{self, Rules};

pub use probe::Probe;

/// Directory of the sysctls. /proc shows the values of the namespace of the thread that opens a file.
const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// The sysctls that must not be 0, with their needs.
const WANTED: [(Need, &str); 3] = [
    (Need::Events, "nf_conntrack_events"),
    (Need::Accounting, "nf_conntrack_acct"),
    (Need::Timestamps, "nf_conntrack_timestamp"),
];

/// Room for messages about rules: a reload of ten thousand rules takes some 5 MB. It takes memory only while
/// messages wait.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// How often it is asked whether the kernel tracks where no rule that is known proves it: rules of
/// iptables-legacy, for one, come and go without a message.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long it is asked with each look after the last rule that is known went: the kernel lets go of it later.
const ASK_OFTEN: Duration = Duration::from_secs(1);

/// How often all rules are listed at most, where messages about them were lost.
const LIST_EVERY: Duration = Duration::from_secs(1);

/// How often at once, where rules change while they are listed.
const LIST_ATTEMPTS: u32 = 3;

/// How many messages are read in one look at most; the rest is for the next one.
const READS_PER_LOOK: usize = 64;

/// What a look found of the rules for one IP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// Whether the kernel tracks it now, and did since the last look that said so, but for `blinked`; `None` where that
    /// cannot be found out, or not yet.
    pub now: Option<bool>,
    /// Since the last look there may have been a moment in which it did not.
    pub blinked: bool,
    /// Nothing tells, and nothing will.
    pub is_blind: bool,
}

/// What is watched of a network namespace.
#[derive(Debug)]
pub struct NamespaceWatch {
    sysctls: [(Need, &'static str, Option<File>); 3],
    /// Messages about rules; none come where the kernel has no nftables.
    messages: Listener,
    rules: Rules,
    /// There is no list, or messages were lost since: the rules have to be listed.
    must_list: bool,
    tried: Option<Instant>,
    has_listed: bool,
    /// Messages were lost, and the rules are not listed yet.
    is_unsure: bool,
    versions: [Version; 2],
    probe: Probe,
}

/// Which messages about rules were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Messages {
    /// None waits.
    is_all: bool,
    /// Some were lost, or cannot be read.
    has_lost: bool,
}

/// What is known of one IP version.
#[derive(Clone, Copy, Debug, Default)]
struct Version {
    /// What was found the last time.
    now: Option<bool>,
    asked: Option<Instant>,
    /// When the last rule that is known went.
    emptied: Option<Instant>,
    /// A rule that is known made the kernel track once.
    had_rules: bool,
}

impl NamespaceWatch {
    /// Of the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// Where there is no netlink.
    pub fn open() -> Result<Self, Error> {
        let messages =
            Listener::subscribe(&[Group::Rules], Some(RECEIVE_BUFFER_BYTES), Delivery::BestEffort)?;
        let sysctls = WANTED.map(|(need, name)| (need, name, open_sysctl(name)));
        Ok(Self {
            sysctls,
            messages,
            rules: Rules::default(),
            must_list: true,
            tried: None,
            has_listed: false,
            is_unsure: false,
            versions: [Version::default(); 2],
            probe: Probe::open(),
        })
    }

    /// Each sysctl, and whether it is on. One that is not there is not.
    pub fn sysctls(&self) -> impl Iterator<Item = (Need, bool)> {
        self.sysctls.iter().map(|(need, _, file)| {
            let value = file.as_ref().map(read_value);
            (*need, matches!(value, Some(Ok(value)) if value != 0))
        })
    }

    /// Turns a sysctl on.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn turn_on(&self, need: Need) -> io::Result<()> {
        let found = self.sysctls.iter().find(|(of, ..)| *of == need);
        match found {
            Some((.., Some(file))) => file.write_all_at(b"1\n", 0),
            Some((_, name, None)) => Err(io::Error::other(format!("found no sysctl {name}"))),
            None => Ok(()),
        }
    }

    /// Reads what the kernel told of the rules, and finds out whether it tracks: IPv4, then IPv6.
    pub fn tracking(
        &mut self,
        requests: &mut Requests,
        buffers: &mut Buffers,
        now: Instant,
    ) -> [Tracking; 2] {
        let Messages { is_all, has_lost } = self.read_messages(requests, buffers);
        self.must_list |= has_lost;
        // Nobody was promised anything before the first list.
        self.is_unsure |= has_lost && self.has_listed;
        // What is known is older than now. After a loss the kernel drops all further messages, without another word,
        // until none waits: a list that is made earlier would not be followed by what changes after it.
        if !is_all {
            return [Tracking::default(); 2];
        }
        if self.must_list && self.tried.is_none_or(|tried| now >= tried + LIST_EVERY) {
            self.tried = Some(now);
            // What goes and comes meanwhile is in messages that are not lost, and makes the list a part.
            self.must_list = !(0..LIST_ATTEMPTS).any(|_| self.list(requests));
            self.has_listed |= !self.must_list;
        }
        // What was lost is known to be over when there is a list.
        let has_blinked = !self.must_list && std::mem::take(&mut self.is_unsure);
        [false, true].map(|is_ipv6| self.version(is_ipv6, has_blinked, requests, now))
    }

    /// Reads the messages that are there.
    fn read_messages(&mut self, requests: &mut Requests, buffers: &mut Buffers) -> Messages {
        let Self { messages, rules, .. } = self;
        let mut has_lost = false;
        for _ in 0..READS_PER_LOOK {
            match messages.recv(buffers) {
                Ok(Received::Datagrams(datagrams)) => {
                    let mut messages = datagrams.iter().flat_map(decode::messages);
                    let result = messages.try_for_each(|message| rules.apply(&message?));
                    has_lost |= datagrams.truncated() > 0 || result.is_err();
                }
                Ok(Received::WouldBlock) => return Messages { is_all: true, has_lost },
                // Before more is read: what was lost told of nothing where the last transaction is the one that is known.
                Ok(Received::Overrun) => has_lost |= !is_current(rules, requests),
                // What waits is not known.
                Err(_) => return Messages { is_all: true, has_lost: true },
            }
        }
        Messages { is_all: false, has_lost }
    }

    /// Lists all rules; without nftables there are none. Says whether that could be done.
    fn list(&mut self, requests: &mut Requests) -> bool {
        let Self { rules, .. } = self;
        // What changes after this tells so by a message with a later number.
        let generation = generation(requests);
        rules.clear();
        let listed = requests.rules(|message| rules.apply(message));
        if let Err(error) = &listed {
            debug!("cannot list the rules of nftables: {}", one_line(error));
            rules.clear();
        }
        rules.listed(generation);
        match listed {
            Ok(()) => true,
            // `nfnetlink_rcv_msg`: there is no such subsystem.
            Err(error) => error.is_unknown_request(),
        }
    }

    fn version(
        &mut self,
        is_ipv6: bool,
        has_blinked: bool,
        requests: &mut Requests,
        now: Instant,
    ) -> Tracking {
        let Self { rules, versions, probe, must_list, is_unsure, .. } = self;
        let [ipv4, ipv6] = versions;
        let version = if is_ipv6 { ipv6 } else { ipv4 };
        let was_tracked = version.now == Some(true);
        // What was between two looks of which messages are lost is not known.
        let mut blinked = has_blinked && was_tracked;
        if rules.were_emptied(is_ipv6) {
            version.emptied.get_or_insert(now);
        }
        if rules.track(is_ipv6) && !*must_list {
            blinked |= rules.have_returned(is_ipv6) && was_tracked;
            rules.settle(is_ipv6);
            *version = Version { now: Some(true), asked: None, emptied: None, had_rules: true };
            return Tracking { now: version.now, blinked, is_blind: false };
        }
        let is_fresh = version.emptied.is_some_and(|emptied| now < emptied + ASK_OFTEN);
        if is_fresh || version.asked.is_none_or(|asked| now >= asked + ASK_EVERY) {
            version.asked = Some(now);
            // Where nothing else can be found out, rules that went are no more there.
            let had_rules = version.had_rules && !*must_list;
            version.now = probe.is_tracked(is_ipv6, requests).or(had_rules.then_some(false));
        }
        if version.now == Some(true) && (is_fresh || *is_unsure) {
            // The kernel has not let go yet, or rules came back after the messages were read, or something else keeps it
            // tracking: the next looks tell. Until then nothing is promised.
            return Tracking { now: None, blinked, is_blind: false };
        }
        rules.settle(is_ipv6);
        version.emptied = None;
        let is_blind = version.now.is_none();
        let blinked = blinked && version.now == Some(true);
        // What was found earlier promises nothing of now.
        let now = version.now.filter(|is_tracked| !is_tracked || version.asked == Some(now));
        Tracking { now, blinked, is_blind }
    }
}

/// Whether the last transaction is known.
fn is_current(rules: &Rules, requests: &mut Requests) -> bool {
    let known = rules.generation();
    known.is_some() && known == generation(requests)
}

/// The number of the last transaction of nftables; `None` where there is no nftables.
fn generation(requests: &mut Requests) -> Option<u32> {
    let mut generation = None;
    let asked = requests.generation(|message| {
        generation = nft_rules::generation(message.payload)?;
        Ok(())
    });
    asked.ok().and(generation)
}

fn open_sysctl(name: &str) -> Option<File> {
    let path = format!("{SYSCTLS}/{name}");
    // Where it cannot be written, as in some containers, it can be read.
    OpenOptions::new().read(true).write(true).open(&path).or_else(|_| File::open(&path)).ok()
}

fn read_value(file: &File) -> io::Result<u8> {
    let mut text = [0; 8];
    let read = file.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(text.get(..read).unwrap_or_default()).map_err(io::Error::other)?;
    text.trim().parse().map_err(io::Error::other)
}
