//! Opens and closes lanes beside the worker.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Lane, Refusal, Wanted};

/// What is to be done, in this order.
enum Order {
    Close(Box<Lane>),
    Open { number: u64, wanted: Wanted },
}

/// What became of an order to open a lane.
struct Answer {
    number: u64,
    lane: Result<Lane, Refusal>,
}

/// Opens and closes lanes for one port, one after the other, in a thread that ends when this is dropped.
pub(in crate::ports) struct Opener {
    orders: Sender<Order>,
    answers: Receiver<Answer>,
    /// Readable when there is an answer.
    news: Arc<EventFd>,
    /// The number of the last order to open one.
    number: u64,
    /// What was wished for last, unless it was answered or forgotten.
    wanted: Option<Wanted>,
}

impl Opener {
    /// Starts the thread, in the network namespace of the caller.
    pub(in crate::ports) fn start() -> io::Result<Self> {
        let (orders, to_do) = unbounded();
        let (done, answers) = unbounded();
        let news = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let tell = Arc::clone(&news);
        let named = thread::Builder::new().name("uplink lane".to_owned());
        named.spawn(move || {
            for order in to_do {
                match order {
                    Order::Close(lane) => drop(lane),
                    Order::Open { number, wanted } => {
                        let lane = Lane::open(&wanted);
                        if done.send(Answer { number, lane }).is_err() {
                            return;
                        }
                        // It can only fail where it is readable already.
                        let _ = tell.write(1);
                    }
                }
            }
        })?;
        Ok(Self {
            orders,
            answers,
            news,
            number: 0,
            wanted: None,
        })
    }

    /// Closes a lane, and forgets the wish for one.
    pub(in crate::ports) fn close(&mut self, lane: Option<Lane>) {
        self.wanted = None;
        if let Some(lane) = lane {
            self.order(Order::Close(Box::new(lane)));
        }
    }

    /// Closes a lane that was kept for a while; the wish for another stands.
    pub(in crate::ports) fn retire(&self, lane: Lane) {
        self.order(Order::Close(Box::new(lane)));
    }

    /// Wishes for a lane, after those that were to be closed are.
    pub(in crate::ports) fn open(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
        self.number += 1;
        let number = self.number;
        self.order(Order::Open { number, wanted });
    }

    /// Takes the lane that was wished for last, or why there is none, once that is known.
    pub(in crate::ports) fn take(&mut self) -> Option<Result<Lane, Refusal>> {
        // There may be nothing to read.
        let _ = self.news.read();
        let mut answer = None;
        while let Ok(Answer { number, lane }) = self.answers.try_recv() {
            if number == self.number && self.wanted.is_some() {
                self.wanted = None;
                answer = Some(lane);
            } else if let Ok(lane) = lane {
                // It was in the way of whatever was wished for since.
                self.order(Order::Close(Box::new(lane)));
                if let Some(wanted) = self.wanted {
                    self.open(wanted);
                }
            }
        }
        answer
    }

    fn order(&self, order: Order) {
        // The thread ends when nobody can order any more.
        let _ = self.orders.send(order);
    }
}

impl AsRawFd for Opener {
    fn as_raw_fd(&self) -> RawFd {
        self.news.as_raw_fd()
    }
}
