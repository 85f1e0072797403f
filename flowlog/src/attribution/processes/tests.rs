use super::*;

fn seed(table: &mut ProcessTable, tgid: u32, exe: &str, read_ns: u64) {
    table.seed(Process { tgid, exe: Some(exe.into()), ..Process::default() }, read_ns);
}

fn fork(table: &mut ProcessTable, tgid: u32, maker_tgid: u32, at_ns: u64) {
    let ppid = Some(maker_tgid);
    table.fork(
        Fork { tgid, maker_tgid, ppid, login_uid: None, start_ns: 1000 + at_ns, group: Group::default() },
        at_ns,
    );
}

fn exec(table: &mut ProcessTable, tgid: u32, exe: &str, at_ns: u64) {
    table.exec(Exec { tgid, exe: Some(exe.into()), ..Exec::default() }, at_ns);
}

fn exe(table: &ProcessTable, tgid: u32, at_ns: u64) -> Option<&str> {
    table.at(tgid, at_ns)?.exe.as_deref()
}

#[test]
fn exec_and_exit_bound_the_time_of_an_image() {
    let mut table = ProcessTable::default();
    seed(&mut table, 1, "/sbin/init", 10);
    fork(&mut table, 2, 1, 100);
    exec(&mut table, 2, "/bin/sh", 200);
    table.exit(2, 300);

    assert_eq!(exe(&table, 2, 99), None);
    assert_eq!(exe(&table, 2, 100), Some("/sbin/init"));
    assert_eq!(exe(&table, 2, 199), Some("/sbin/init"));
    assert_eq!(exe(&table, 2, 200), Some("/bin/sh"));
    assert_eq!(exe(&table, 2, 300), None);
}

#[test]
fn a_process_closes_what_it_left_open_after_its_exit() {
    let mut table = ProcessTable::default();
    let acting = |table: &ProcessTable, at_ns| table.acting(7, at_ns).and_then(|one| one.exe.clone());
    exec(&mut table, 7, "/bin/old", 100);
    assert_eq!(acting(&table, 150).as_deref(), Some("/bin/old"));
    table.exit(7, 200);
    assert_eq!(acting(&table, 210).as_deref(), Some("/bin/old"));
    fork(&mut table, 7, 1, 300);
    assert_eq!(acting(&table, 310), None, "another process");
    table.exit(7, 320);
    table.lost_events(330);
    assert_eq!(acting(&table, 340), None, "the number may be used again");
}

#[test]
fn a_number_that_is_used_again_is_another_process() {
    let mut table = ProcessTable::default();
    exec(&mut table, 7, "/bin/old", 100);
    table.exit(7, 200);
    fork(&mut table, 7, 1, 300);
    exec(&mut table, 7, "/bin/new", 310);

    assert_eq!(exe(&table, 7, 150), Some("/bin/old"));
    assert_eq!(exe(&table, 7, 250), None);
    assert_eq!(exe(&table, 7, 305), None, "forked from a process that is not known");
    assert_eq!(exe(&table, 7, 400), Some("/bin/new"));
}

#[test]
fn events_win_over_the_seed() {
    let mut table = ProcessTable::default();
    exec(&mut table, 7, "/bin/event", 100);
    seed(&mut table, 7, "/bin/seed", 90);
    seed(&mut table, 7, "/bin/seed", 110);
    assert_eq!(exe(&table, 7, 120), Some("/bin/event"));
}

#[test]
fn events_from_before_the_seed_that_are_read_after_it_take_nothing_away() {
    let mut table = ProcessTable::default();
    seed(&mut table, 7, "/bin/forked", 110);
    fork(&mut table, 7, 1, 100);
    assert_eq!(exe(&table, 7, 120), Some("/bin/forked"));
    exec(&mut table, 7, "/bin/executed", 105);
    assert_eq!(exe(&table, 7, 105), Some("/bin/executed"));
    assert_eq!(exe(&table, 7, 120), Some("/bin/executed"));
}

#[test]
fn nothing_is_known_between_a_loss_and_the_next_seed() {
    let mut table = ProcessTable::default();
    seed(&mut table, 7, "/bin/before", 10);
    table.lost_events(100);
    assert_eq!(exe(&table, 7, 99), Some("/bin/before"));
    assert_eq!(exe(&table, 7, 100), None);
    seed(&mut table, 7, "/bin/after", 150);
    assert_eq!(exe(&table, 7, 149), None);
    assert_eq!(exe(&table, 7, 150), Some("/bin/after"));
}

#[test]
fn a_child_has_what_its_parent_was_at_the_fork() {
    let mut table = ProcessTable::default();
    seed(&mut table, 1, "/sbin/init", 10);
    fork(&mut table, 2, 1, 100);
    let args = Some("sh -c x".into());
    let exec_2 = Exec {
        tgid: 2,
        exe: Some("/bin/sh".into()),
        cmdline: args.clone(),
        login_uid: Some(1000),
        group: Group::default(),
    };
    table.exec(exec_2, 200);
    let at = |table: &ProcessTable, tgid, at_ns| Process::clone(table.at(tgid, at_ns).unwrap());
    let sh = at(&table, 2, 200);
    assert_eq!((sh.start_ns, sh.ppid, sh.login_uid), (Some(1100), Some(1), Some(1000)), "kept by the exec");
    assert_eq!((sh.parent_exe.as_deref(), &sh.cmdline), (Some("/sbin/init"), &args));

    fork(&mut table, 3, 2, 300);
    exec(&mut table, 2, "/bin/other", 310);
    let child = at(&table, 3, 320);
    assert_eq!((child.start_ns, child.ppid, child.login_uid), (Some(1300), Some(2), None));
    assert_eq!((child.exe.as_deref(), child.cmdline), (Some("/bin/sh"), args));
    assert_eq!(child.parent_exe.as_deref(), Some("/bin/sh"));
}

/// `CLONE_PARENT`: what runs is of the maker, what is above of its parent.
#[test]
fn a_sibling_has_the_program_of_its_maker_and_the_parent_of_its_parent() {
    let mut table = ProcessTable::default();
    seed(&mut table, 1, "/sbin/init", 10);
    seed(&mut table, 2, "/bin/maker", 10);
    for ppid in [Some(1), None] {
        table.fork(
            Fork { tgid: 3, maker_tgid: 2, ppid, login_uid: Some(5), start_ns: 7, group: Group::default() },
            100,
        );
        let sibling = table.at(3, 100).unwrap();
        assert_eq!((sibling.exe.as_deref(), sibling.ppid), (Some("/bin/maker"), ppid));
        assert_eq!(sibling.parent_exe.as_deref(), ppid.map(|_| "/sbin/init"));
    }
}

/// The other threads end first, with the one that has the number of the process among them.
#[test]
fn a_thread_that_executes_goes_on_as_the_process() {
    let mut table = ProcessTable::default();
    fork(&mut table, 7, 1, 100);
    table.exit(7, 200);
    exec(&mut table, 7, "/bin/new", 210);
    let process = table.at(7, 210).unwrap();
    assert_eq!((process.start_ns, process.ppid), (Some(1100), Some(1)));
    fork(&mut table, 8, 7, 220);
    assert_eq!(exe(&table, 8, 220), Some("/bin/new"));
}

/// /proc told of the third process with a number, and events tell of the first.
#[test]
fn a_seed_that_is_read_before_older_events_may_be_of_another_process() {
    let mut table = ProcessTable::default();
    exec(&mut table, 7, "/bin/first", 50);
    table.exit(7, 60);
    seed(&mut table, 7, "/bin/third", 200);
    fork(&mut table, 7, 1, 100);
    table.exit(7, 110);
    assert_eq!(table.acting(7, 120), None);
    fork(&mut table, 7, 1, 130);
    assert_eq!(exe(&table, 7, 250), None, "made by a process that is not known");
    exec(&mut table, 7, "/bin/third", 140);
    assert_eq!(exe(&table, 7, 250), Some("/bin/third"));
}

/// The kernel runs a program: one of its threads makes a process, which executes it.
#[test]
fn a_process_of_the_kernel_is_one_until_it_executes() {
    let mut table = ProcessTable::default();
    let is_kernel = |table: &ProcessTable, tgid, at_ns| table.at(tgid, at_ns).map(|one| one.is_kernel);
    fork(&mut table, 50, KTHREADD, 100);
    fork(&mut table, 60, 50, 110);
    exec(&mut table, 60, "/sbin/modprobe", 120);
    fork(&mut table, 70, 60, 130);
    assert_eq!(is_kernel(&table, 50, 200), Some(true));
    assert_eq!((is_kernel(&table, 60, 110), is_kernel(&table, 60, 120)), (Some(true), Some(false)));
    assert_eq!(is_kernel(&table, 70, 130), Some(false));
}

/// What takes the room of so many ended images of `/bin/x`.
fn room_for(images: usize) -> ProcessTable {
    ProcessTable::new((images * (IMAGE_BYTES + "/bin/x".len()) + 2 * GROUP_BYTES) * ENDED_PART)
}

fn run(table: &mut ProcessTable, tgid: u32, uid: u32) {
    let group = Group { cgroup_id: 1, uid };
    table.exec(Exec { tgid, exe: Some("/bin/x".into()), group, ..Exec::default() }, 100);
    table.exit(tgid, 200);
}

#[test]
fn ended_images_are_bounded_and_the_oldest_of_who_has_most_go_first() {
    let mut table = room_for(100);
    for tgid in 0..30 {
        run(&mut table, tgid, 1);
    }
    for tgid in 1000..2000 {
        run(&mut table, tgid, 2);
    }
    assert!((99..=100).contains(&table.images.len()));
    assert!((0..30).all(|tgid| table.at(tgid, 150).is_some()), "another user");
    assert!(table.at(1929, 150).is_none());
    assert!(table.at(1931, 150).is_some());
}

/// The parent opened the listener, and ended.
#[test]
fn who_owns_sockets_that_go_on_is_remembered() {
    let mut table = room_for(100);
    for tgid in 0..250 {
        run(&mut table, tgid, 1);
        assert_eq!(table.owner(1, 150).is_some(), tgid > 0);
    }
    assert!(table.at(2, 150).is_none());
    for tgid in 250..500 {
        run(&mut table, tgid, 1);
    }
    assert!(table.at(1, 150).is_none(), "nobody asks any more");
}

/// As each session and container has a cgroup of its own: together they have more than is forgotten at once.
#[test]
fn of_many_groups_none_loses_all_and_who_is_asked_for_stays() {
    const GROUPS: u32 = 1000;
    const EACH: u32 = 4;
    let bytes = EACH as usize * (IMAGE_BYTES + "/bin/x".len()) + GROUP_BYTES;
    let mut table = ProcessTable::new(GROUPS as usize * bytes * ENDED_PART);
    for tgid in 0..2 * GROUPS * EACH {
        run(&mut table, tgid, tgid % GROUPS);
        assert_eq!(table.owner(1, 150).is_some(), tgid > 0);
    }
    let of_group = |uid: u32| {
        let all = table.images.values().flatten();
        all.filter(|image| image.group.uid == uid).count()
    };
    let fewest = (0..GROUPS).map(of_group).min();
    assert_eq!(fewest, Some(EACH as usize - 1));
}
