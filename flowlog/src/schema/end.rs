//! The columns of the local process at one end of a flow.

use arrow_array::ArrayRef;
use arrow_array::types::{Int32Type, Int64Type};
use flowlog_common::{COMM_LEN, Owner};

use super::row::{comm, saturate};
use super::sparse::{Sparse, Unknown};
use super::text::{Keyed, Names, Shared};
use crate::attribute::Attribution;
use crate::sockets::Socket;

/// Columns of the local process at one end.
#[derive(Debug)]
pub(super) struct EndColumns {
    attribution: Names,
    pid: Sparse<Int32Type>,
    uid: Sparse<Int64Type>,
    comm: Keyed<[u8; COMM_LEN]>,
    exe: Shared,
    netns_cookie: Sparse<Int64Type>,
    socket_cookie: Sparse<Int64Type>,
}

impl EndColumns {
    pub(super) fn new() -> Self {
        Self {
            attribution: Names::new(),
            pid: Sparse::new(),
            uid: Sparse::new(),
            comm: Keyed::new(),
            exe: Shared::new(),
            netns_cookie: Sparse::new(),
            socket_cookie: Sparse::new(),
        }
    }

    pub(super) fn append(&mut self, attribution: Option<Attribution<'_>>) {
        self.attribution.append(attribution.map(Attribution::name));
        let Some(socket) = attribution.and_then(Attribution::socket) else {
            self.pid.append(None);
            self.uid.append(None);
            self.comm.append_null();
            self.exe.append(None);
            self.netns_cookie.append(None);
            self.socket_cookie.append(None);
            return;
        };
        let Socket { cookie, ends: _, owner, process, passive: _, opened_ns: _, closed_ns: _ } = socket;
        let Owner { time_ns: _, tgid, uid, cgroup_id: _, netns_cookie, comm: task } = owner;
        self.pid.append(i32::try_from(*tgid).ok());
        self.uid.append(Some(i64::from(*uid)));
        match comm(task) {
            Some(name) => {
                self.comm.append(*task, |values| values.append_value(String::from_utf8_lossy(name)));
            }
            None => self.comm.append_null(),
        }
        self.exe.append(process.as_ref().and_then(|process| process.exe.as_ref()));
        self.netns_cookie.append(known_cookie(*netns_cookie));
        self.socket_cookie.append(known_cookie(*cookie));
    }

    pub(super) fn finish(&mut self, unknown: &Unknown) -> [ArrayRef; 22] {
        [
            self.attribution.finish_or(unknown.text()),
            self.pid.finish_or(unknown.int32()),
            unknown.timestamp(), // process_start_time
            unknown.int32(),     // ppid
            self.uid.finish_or(unknown.int64()),
            unknown.int64(), // login_uid
            unknown.text(),  // user
            self.comm.finish_or(unknown.text()),
            self.exe.finish_or(unknown.text()),
            unknown.text(), // cmdline
            unknown.text(), // parent_exe
            unknown.text(), // cgroup
            unknown.text(), // unit
            unknown.text(), // container_id
            unknown.text(), // pod_uid
            self.netns_cookie.finish_or(unknown.int64()),
            self.socket_cookie.finish_or(unknown.int64()),
            unknown.int64(), // tcp_srtt_us
            unknown.int64(), // tcp_min_rtt_us
            unknown.int64(), // tcp_retrans
            unknown.int64(), // tcp_bytes_sent
            unknown.int64(), // tcp_bytes_received
        ]
    }
}

/// Cookies count from 1; 0 is a kernel that could not tell.
fn known_cookie(cookie: u64) -> Option<i64> {
    (cookie != 0).then(|| saturate(cookie))
}
