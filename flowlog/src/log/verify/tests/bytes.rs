//! Nothing panics, whatever the bytes are.

use flowlog_reader::layout;

use super::*;

#[test]
fn any_changed_byte_of_the_ledger_is_found() {
    let bench = two_runs();
    let whole = fs::read(bench.path(layout::LEDGER)).unwrap();
    proptest!(ProptestConfig::with_cases(2000), |(position: prop::sample::Index, change in 1..=255_u8)| {
        let mut changed = whole.clone();
        let position = position.index(changed.len());
        changed[position] ^= change;
        fs::write(bench.path(layout::LEDGER), &changed).unwrap();
        prop_assert!(!bench.verify().ok, "byte {} became {}", position, changed[position]);
    });
}

#[test]
fn any_bytes_are_a_ledger() {
    let bench = two_runs();
    let whole = fs::read(bench.path(layout::LEDGER)).unwrap();
    proptest!(|(bytes: Vec<u8>, from: prop::sample::Index, to: prop::sample::Index)| {
        let (from, to) = (from.index(whole.len()), to.index(whole.len()));
        let ledger = [&whole[..from], &bytes, &whole[to..]].concat();
        fs::write(bench.path(layout::LEDGER), &ledger).unwrap();
        prop_assert!(!bench.verify().ok || ledger == whole);
    });
}

/// The ledger names the file as it is, so that it is decoded.
#[test]
fn any_bytes_are_a_file() {
    let mut bench = Bench::new();
    let flows = bench.flows_file(None, &(1..300).collect::<Vec<_>>());
    let gaps = bench.gaps_unlisted(1, &[loss(Some(1), Stage::Write)]);
    let wholes = [&flows, &gaps].map(|file| fs::read(bench.path(&file.path)).unwrap());
    let start = bench.ledger_lines();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
    proptest!(|(changes in changes, cut in prop::option::weighted(0.2, any::<prop::sample::Index>()))| {
        bench.write_ledger(&start);
        let (mut ledger, _) = Ledger::open(&bench.path(layout::LEDGER)).unwrap();
        for (file, whole) in [&flows, &gaps].into_iter().zip(&wholes) {
            let mut bytes = whole.clone();
            for (position, byte) in &changes {
                let position = position.index(bytes.len());
                bytes[position] = *byte;
            }
            bytes.truncate(cut.map_or(whole.len(), |cut| cut.index(whole.len())));
            fs::write(bench.path(&file.path), bytes).unwrap();
            let mut file = file.clone();
            bench.measure(&mut file);
            ledger.append(bench.run, SystemTime::now(), Event::File(file)).unwrap();
        }
        bench.verify();
    });
}
