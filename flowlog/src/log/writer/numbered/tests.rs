use std::sync::Arc;

use arrow_array::types::Int64Type;
use arrow_array::{DictionaryArray, Int32Array, Int64Array, UInt32Array};

use super::*;

fn part(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(texts.iter().copied().collect::<DictionaryArray<Int32Type>>())
}

fn runs(runs: &[(u32, usize)]) -> Vec<Run> {
    runs.iter().map(|&(number, rows)| Run { number, rows }).collect()
}

#[test]
fn texts_are_numbered_in_the_order_of_the_rows() {
    // An array may have a text twice, and texts that no row has.
    let values = StringArray::from(vec!["unused", "b", "a", "b"]);
    let keys = Int32Array::from(vec![Some(1), Some(2), None, Some(3)]);
    let parts: [ArrayRef; 1] = [Arc::new(DictionaryArray::new(keys, Arc::new(values)))];
    let order = UInt32Array::from(vec![2, 1, 3, 0]);
    let column = Numbered::of_texts(&parts, order.values(), 100).unwrap().unwrap();
    assert_eq!(column, Numbered { values: vec!["a", "b"], runs: runs(&[(NULL, 1), (0, 1), (1, 2)]) });
}

#[test]
fn a_text_that_no_row_has_is_not_written() {
    let texts = part(&[Some("a"), Some("b"), Some("c"), Some("b")]);
    let sliced = [texts.slice(1, 1), texts.slice(3, 1)];
    let column = Numbered::of_texts(&sliced, &[0, 1], 100).unwrap().unwrap();
    assert_eq!(column, Numbered { values: vec!["b"], runs: runs(&[(0, 2)]) });
}

#[test]
fn what_has_a_text_for_each_row_is_left_to_the_crate() {
    let texts: Vec<String> = (0..100).map(|n| format!("{n:060}")).collect();
    let texts: Vec<_> = texts.iter().map(|text| Some(text.as_str())).collect();
    let parts = [part(&texts)];
    let order: Vec<u32> = (0..100).collect();
    let column = |limit| Numbered::of_texts(&parts, &order, limit).unwrap();
    assert!(column(texts.len() * 64).is_none());
    assert!(column(texts.len() * 64 + 1).is_some());
}

/// A part of a batch has all texts of the batch.
#[test]
fn a_part_of_a_batch_is_numbered_by_its_rows() {
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let whole = part(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
    let parts = [whole.slice(98, 2), whole.slice(7, 1), part(&[None, Some("99")])];
    let column = Numbered::of_texts(&parts, &[3, 0, 1, 2, 4], 100).unwrap().unwrap();
    let expected = runs(&[(NULL, 1), (0, 1), (1, 1), (2, 1), (1, 1)]);
    assert_eq!(column, Numbered { values: vec!["98", "99", "7"], runs: expected });
}

#[test]
fn neighbours_with_one_number_are_a_run() {
    let parts: [ArrayRef; 2] =
        [Arc::new(Int64Array::from(vec![Some(5), None, Some(5)])), Arc::new(Int64Array::from(vec![7, 5]))];
    let numbers = Numbers::of::<Int64Type>(&parts).unwrap();
    let column = |limit| Numbered::of_numbers(&numbers, &[0, 2, 4, 1, 3, 0], limit).unwrap();
    let expected = runs(&[(0, 3), (NULL, 1), (1, 1), (0, 1)]);
    assert_eq!(column(24), Some(Numbered { values: vec![5, 7], runs: expected }));
    assert_eq!(column(16), None, "a dictionary that is too large");
}
