//! Ends whose packets a process made by hand, with a raw socket.

use std::sync::Arc;

use super::{Observer, Tables};
use crate::attribution::raw_sockets::{FoundRaw, Wanted};
use crate::attribution::sockets::Span;
use crate::flow::{Protocol, Tuple};
use crate::record::{Attribution, End, Method};

/// The raw socket at the end that sends with the first of these tuples, where the other end sends with the second.
pub(super) fn find(
    (own, other): (&Tuple, &Tuple),
    span: Span,
    observer: &Observer<'_>,
    tables: &Tables,
) -> FoundRaw {
    // Most hosts have none, and most flows of a router come here.
    if tables.raw.is_empty() {
        return FoundRaw::None;
    }
    let netns_cookie = observer.netns_cookie;
    let presence = observer.presence(own.src, span);
    let found = tables.raw.find(&Wanted { own, other, netns_cookie, presence, span }, &tables.holders);
    let FoundRaw::One { holder, sent_ns, .. } = found else { return found };
    // Who sends packets into the connection of another is not the other.
    if tables.may_be_unseen(own.proto == Protocol::TCP, span) {
        return FoundRaw::Ambiguous;
    }
    let Some(maker) = &tables.holders.get(holder).process else { return found };
    // The kernel tells who sends by the number of the process alone, which may be of another one by then.
    let sender = tables.processes.acting(maker.tgid, sent_ns);
    if sender.is_some_and(|sender| Arc::ptr_eq(sender, maker)) { found } else { FoundRaw::Ambiguous }
}

pub(super) fn attribution(found: FoundRaw, tables: &Tables) -> Option<Attribution<'_>> {
    match found {
        FoundRaw::None => None,
        FoundRaw::One { holder, cookie, .. } => {
            let holder = tables.holders.get(holder);
            let end = End { holder, cookie: Some(cookie), stats: None, closed_ns: None };
            Some(Attribution { method: Method::Raw, end: Some(end) })
        }
        FoundRaw::Ambiguous => Some(Attribution::AMBIGUOUS),
    }
}

/// Leaves out raw sockets at ends of which both are in one other namespace than that of the observer: their packets
/// never left it. A program there that sends packets to its neighbours in the name of others is not the other.
pub(super) fn without_inner<'a>(
    ends: [Option<Attribution<'a>>; 2],
    observer: &Observer<'_>,
) -> (Option<Attribution<'a>>, Option<Attribution<'a>>) {
    let netns = ends.map(|end| end?.end.map(|end| end.holder.owner.netns_cookie));
    let is_inner = netns[0].is_some() && netns[0] == netns[1] && netns[0] != observer.netns_cookie;
    let [src, dst] = ends.map(|end| end.filter(|end| !(is_inner && end.method == Method::Raw)));
    (src, dst)
}
