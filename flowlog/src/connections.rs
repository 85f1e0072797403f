//! What connection tracking says: the kernel's over netlink, and that of saved text.
//!
//! | module | owns | IO |
//! |---|---|---|
//! | [`filter`] | which flows are recorded | no |
//! | [`ctnetlink`] | the kernel's connection tracking over netlink: bytes to values, events, requests | netlink |
//! | [`proc_net`] | the text formats of connection tracking | no |
//! | [`duplicates`] | which flows ended before | no |
//! | [`timeouts`] | when the last packet of a flow was | only `read` |
//! | [`dumps`] | entries that end without an event, and those that go on | no |

pub mod filter;

pub mod ctnetlink;

pub mod proc_net;

pub mod duplicates;

pub mod timeouts;

pub mod dumps;
