//! Random schedules of traffic, faults and restarts, and a simple reference of what must be recorded.
//!
//! `FLOWLOG_MODEL_SEED` is the first seed and `FLOWLOG_MODEL_SCHEDULES` their number; a schedule depends on
//! its seed alone. The kernel and the clock are real: the same steps can meet other moments.

/// What must be recorded.
mod reference;
/// The steps of a schedule, and which comes next.
mod steps;
/// The kernel, the disk and the daemon, and what the steps do to them.
mod world;

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;

use self::steps::next;
use self::world::World;

/// Schedules that run side by side: a daemon waits most of the time.
const AT_ONCE: usize = 4;

#[test]
fn random_schedules_are_recorded_exactly() {
    run_schedules(8);
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --long`"]
fn two_hundred_random_schedules_are_recorded_exactly() {
    run_schedules(200);
}

#[track_caller]
fn run_schedules(schedules: u64) {
    let number = |name: &str, default| env::var(name).map_or(default, |number| number.parse().unwrap());
    let first = number("FLOWLOG_MODEL_SEED", 1);
    let end = first + number("FLOWLOG_MODEL_SCHEDULES", schedules);
    println!("the seeds are {first} to {}", end - 1);
    let seeds = AtomicU64::new(first);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    run_schedule(seed);
                }
            });
        }
    });
}

/// A schedule that fails says its seed and its steps.
#[track_caller]
fn run_schedule(seed: u64) {
    let mut random = XorShiftRng::seed_from_u64(seed);
    let mut world = World::new(seed);
    for _ in 0..random.random_range(10..25) {
        let step = next(&mut random, &world);
        world.take(step);
    }
    world.finish();
}
