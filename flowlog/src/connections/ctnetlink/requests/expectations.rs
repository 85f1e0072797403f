//! Requests about expectations.

use super::super::decode;
use super::super::encode::{self, Request};
use super::super::sets::{Expectation, ExpectationStatistics};
use super::super::socket::Error;
use super::super::uapi::*;
use super::{Requests, absent};

impl Requests {
    /// Calls `each` with the expectations, of one address family where it is given.
    pub fn expectations(
        &mut self,
        family: Option<u8>,
        mut each: impl FnMut(Result<Expectation, decode::DecodeError>),
    ) -> Result<(), Error> {
        let sequence = self.whole_table(IPCTNL_MSG_EXP_GET, NLM_F_DUMP, family);
        self.exchange("list the expectations", sequence, |message| {
            each(decode::expectation(message.payload));
            Ok(())
        })
    }

    /// The expectation of this tuple, or of this master, if there is one.
    pub fn find_expectation(&mut self, expectation: &Expectation) -> Result<Option<Expectation>, Error> {
        let sequence = self.begin();
        encode::expectation(&mut self.request, IPCTNL_MSG_EXP_GET, sequence, NLM_F_ACK, expectation);
        self.found("find an expectation", sequence, decode::expectation)
    }

    /// Makes an expectation. The kernel needs tuple, mask, master and timeout; `ENOENT` where the
    /// master is not tracked.
    pub fn make_expectation(&mut self, expectation: &Expectation) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
        let sequence = self.begin();
        encode::expectation(&mut self.request, IPCTNL_MSG_EXP_NEW, sequence, flags, expectation);
        self.exchange("make an expectation", sequence, |_| Ok(()))
    }

    /// Removes the expectation of this tuple. Whether there was one.
    pub fn remove_expectation(&mut self, expectation: &Expectation) -> Result<bool, Error> {
        let sequence = self.begin();
        encode::expectation(&mut self.request, IPCTNL_MSG_EXP_DELETE, sequence, NLM_F_ACK, expectation);
        let removed = self.exchange("remove an expectation", sequence, |_| Ok(()));
        Ok(absent(removed)?.is_some())
    }

    /// Removes all expectations of the network namespace.
    pub fn flush_expectations(&mut self) -> Result<(), Error> {
        let sequence = self.whole_table(IPCTNL_MSG_EXP_DELETE, NLM_F_ACK, None);
        self.exchange("remove all expectations", sequence, |_| Ok(()))
    }

    /// Calls `each` with the number of a CPU and its counters.
    pub fn expectation_statistics(
        &mut self,
        each: impl FnMut(u16, ExpectationStatistics),
    ) -> Result<(), Error> {
        let sequence = self.whole_table(IPCTNL_MSG_EXP_GET_STATS_CPU, NLM_F_DUMP, None);
        self.for_each_cpu("read the counters of expectations", sequence, each)
    }

    /// Makes a request about all expectations; gives its sequence number.
    fn whole_table(&mut self, operation: u8, flags: u16, family: Option<u8>) -> u32 {
        let family = family.unwrap_or(AF_UNSPEC);
        let subsystem = NFNL_SUBSYS_CTNETLINK_EXP;
        self.without_attributes(Request { subsystem, operation, flags, family, ..Request::default() })
    }
}
