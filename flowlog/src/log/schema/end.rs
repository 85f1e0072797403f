//! The columns of the local process at one end of a flow.

use arrow_array::ArrayRef;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use flowlog_common::{COMM_LEN, Owner};

use super::row::{comm, saturate};
use super::sparse::{Sparse, Unknown, utc};
use super::text::{Keyed, Names, Shared};
use super::values;
use crate::record::{Attribution, Cgroup, CommandLine, End, Holder, Origin, Process, TcpStats};
use crate::time::to_us;

/// Columns of the local process at one end.
#[derive(Debug)]
pub(super) struct EndColumns {
    attribution: Names,
    process: ProcessColumns,
    uid: Sparse<Int64Type>,
    user: Shared,
    comm: Keyed<[u8; COMM_LEN]>,
    cgroup: CgroupColumns,
    netns_cookie: Sparse<Int64Type>,
    socket_cookie: Sparse<Int64Type>,
    tcp: TcpColumns,
}

impl EndColumns {
    pub(super) fn new() -> Self {
        Self {
            attribution: Names::new(),
            process: ProcessColumns::new(),
            uid: Sparse::new(),
            user: Shared::new(),
            comm: Keyed::new(),
            cgroup: CgroupColumns::new(),
            netns_cookie: Sparse::new(),
            socket_cookie: Sparse::new(),
            tcp: TcpColumns::new(),
        }
    }

    pub(super) fn append(&mut self, attribution: Option<Attribution<'_>>) {
        self.attribution.append(attribution.map(|attribution| values::attribution(attribution.method)));
        let Some(End { holder, cookie, stats, closed_ns: _ }) = attribution.and_then(|known| known.end)
        else {
            self.process.append(None, None);
            self.uid.append(None);
            self.user.append(None);
            self.comm.append_null();
            self.cgroup.append(None);
            self.netns_cookie.append(None);
            self.socket_cookie.append(None);
            self.tcp.append(None);
            return;
        };
        let Holder { owner, process, origin: Origin { user, cgroup }, is_seeded: _ } = holder;
        let Owner { time_ns: _, tgid, uid, cgroup_id: _, netns_cookie, comm: task } = owner;
        self.process.append(Some(*tgid), process.as_deref());
        self.uid.append(Some(i64::from(*uid)).filter(|_| *uid != u32::MAX));
        self.user.append(user.as_ref());
        match comm(task) {
            Some(name) => {
                self.comm.append(*task, |values| values.append_value(String::from_utf8_lossy(name)));
            }
            None => self.comm.append_null(),
        }
        self.cgroup.append(cgroup.as_deref());
        self.netns_cookie.append(known_cookie(*netns_cookie));
        self.socket_cookie.append(cookie.and_then(known_cookie));
        self.tcp.append(stats);
    }

    pub(super) fn finish(&mut self, unknown: &Unknown) -> [ArrayRef; 22] {
        let [pid, process_start_time, ppid, login_uid, exe, cmdline, parent_exe] =
            self.process.finish(unknown);
        let [cgroup, unit, container_id, pod_uid] = self.cgroup.finish(unknown);
        let [srtt_us, min_rtt_us, retrans, bytes_sent, bytes_received] = self.tcp.finish(unknown);
        [
            self.attribution.finish_or(unknown.text()),
            pid,
            process_start_time,
            ppid,
            self.uid.finish_or(unknown.int64()),
            login_uid,
            self.user.finish_or(unknown.text()),
            self.comm.finish_or(unknown.text()),
            exe,
            cmdline,
            parent_exe,
            cgroup,
            unit,
            container_id,
            pod_uid,
            self.netns_cookie.finish_or(unknown.int64()),
            self.socket_cookie.finish_or(unknown.int64()),
            srtt_us,
            min_rtt_us,
            retrans,
            bytes_sent,
            bytes_received,
        ]
    }
}

/// Columns of the process itself.
#[derive(Debug)]
struct ProcessColumns {
    pid: Sparse<Int32Type>,
    process_start_time: Sparse<TimestampMicrosecondType>,
    ppid: Sparse<Int32Type>,
    login_uid: Sparse<Int64Type>,
    exe: Shared,
    cmdline: Shared,
    parent_exe: Shared,
}

impl ProcessColumns {
    fn new() -> Self {
        Self {
            pid: Sparse::new(),
            process_start_time: Sparse::new(),
            ppid: Sparse::new(),
            login_uid: Sparse::new(),
            exe: Shared::new(),
            cmdline: Shared::new(),
            parent_exe: Shared::new(),
        }
    }

    fn append(&mut self, tgid: Option<u32>, process: Option<&Process>) {
        self.pid.append(tgid.and_then(|tgid| i32::try_from(tgid).ok()));
        let unknown = &Process::default();
        let Process { tgid: _, start_ns, ppid, login_uid, exe, cmdline, parent_exe, is_kernel: _ } =
            process.unwrap_or(unknown);
        self.process_start_time.append(start_ns.map(to_us));
        self.ppid.append(ppid.and_then(|ppid| i32::try_from(ppid).ok()));
        self.login_uid.append(login_uid.map(i64::from));
        self.exe.append(exe.as_ref());
        self.cmdline.append(cmdline.as_ref().map(CommandLine::text));
        self.parent_exe.append(parent_exe.as_ref());
    }

    fn finish(&mut self, unknown: &Unknown) -> [ArrayRef; 7] {
        [
            self.pid.finish_or(unknown.int32()),
            self.process_start_time.finish().map_or_else(|| unknown.timestamp(), utc),
            self.ppid.finish_or(unknown.int32()),
            self.login_uid.finish_or(unknown.int64()),
            self.exe.finish_or(unknown.text()),
            self.cmdline.finish_or(unknown.text()),
            self.parent_exe.finish_or(unknown.text()),
        ]
    }
}

/// Columns of the cgroup.
#[derive(Debug)]
struct CgroupColumns {
    path: Shared,
    unit: Shared,
    container_id: Shared,
    pod_uid: Shared,
}

impl CgroupColumns {
    fn new() -> Self {
        Self { path: Shared::new(), unit: Shared::new(), container_id: Shared::new(), pod_uid: Shared::new() }
    }

    fn append(&mut self, cgroup: Option<&Cgroup>) {
        let unknown = &Cgroup::default();
        let Cgroup { path, unit, container_id, pod_uid } = cgroup.unwrap_or(unknown);
        self.path.append(path.as_ref());
        self.unit.append(unit.as_ref());
        self.container_id.append(container_id.as_ref());
        self.pod_uid.append(pod_uid.as_ref());
    }

    fn finish(&mut self, unknown: &Unknown) -> [ArrayRef; 4] {
        [&mut self.path, &mut self.unit, &mut self.container_id, &mut self.pod_uid]
            .map(|column| column.finish_or(unknown.text()))
    }
}

/// Columns of a TCP socket that has closed.
#[derive(Debug)]
struct TcpColumns {
    srtt_us: Sparse<Int64Type>,
    min_rtt_us: Sparse<Int64Type>,
    retrans: Sparse<Int64Type>,
    bytes_sent: Sparse<Int64Type>,
    bytes_received: Sparse<Int64Type>,
}

impl TcpColumns {
    fn new() -> Self {
        Self {
            srtt_us: Sparse::new(),
            min_rtt_us: Sparse::new(),
            retrans: Sparse::new(),
            bytes_sent: Sparse::new(),
            bytes_received: Sparse::new(),
        }
    }

    fn append(&mut self, stats: Option<TcpStats>) {
        self.srtt_us.append(stats.and_then(|stats| stats.srtt_us).map(i64::from));
        self.min_rtt_us.append(stats.and_then(|stats| stats.min_rtt_us).map(i64::from));
        self.retrans.append(stats.map(|stats| i64::from(stats.retrans)));
        self.bytes_sent.append(stats.map(|stats| saturate(stats.bytes_sent)));
        self.bytes_received.append(stats.map(|stats| saturate(stats.bytes_received)));
    }

    fn finish(&mut self, unknown: &Unknown) -> [ArrayRef; 5] {
        [
            &mut self.srtt_us,
            &mut self.min_rtt_us,
            &mut self.retrans,
            &mut self.bytes_sent,
            &mut self.bytes_received,
        ]
        .map(|column| column.finish_or(unknown.int64()))
    }
}

/// Cookies count from 1; 0 is a kernel that could not tell.
fn known_cookie(cookie: u64) -> Option<i64> {
    (cookie != 0).then(|| saturate(cookie))
}
