//! Values of columns, as Parquet has them.

use parquet::basic::Type;
use parquet::data_type::{AsBytes, ByteArray};
use parquet::file::statistics::{Statistics, ValueStatistics};

/// Bytes of a text that go into statistics.
const MAX_BOUND_LEN: usize = 64;

/// A value that a column may have many times.
pub(super) trait Value: AsBytes + Copy + Ord {
    /// Its type in files.
    const TYPE: Type;

    /// Whether files also say how many bytes its rows have.
    const IS_TEXT: bool;

    /// What stands for it in statistics.
    type Bound: AsBytes + Clone + Ord;

    /// Appends it as PLAIN has it.
    fn put(self, out: &mut Vec<u8>);

    /// Bytes that [`put`](Self::put) appends.
    fn plain_len(self) -> usize;

    /// Bytes of a text, without its length. Numbers have none.
    fn text_len(self) -> usize;

    /// At most this value, and short.
    fn lower_bound(self) -> Self::Bound;

    /// At least this value, and short.
    fn upper_bound(self) -> Self::Bound;

    /// The statistics of rows with values in this range. Bounds stand in them once, not also as those which Parquet
    /// had before 2017.
    fn statistics(range: Option<(Self, Self)>, nulls: u64) -> Statistics;
}

macro_rules! numbers {
    ($($number:ty: $type:expr, $Variant:ident;)+) => { $(
        impl Value for $number {
            const TYPE: Type = $type;
            const IS_TEXT: bool = false;
            type Bound = Self;

            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn plain_len(self) -> usize {
                size_of::<Self>()
            }

            fn text_len(self) -> usize {
                0
            }

            fn lower_bound(self) -> Self {
                self
            }

            fn upper_bound(self) -> Self {
                self
            }

            fn statistics(range: Option<(Self, Self)>, nulls: u64) -> Statistics {
                let (least, greatest) = range.unzip();
                Statistics::$Variant(ValueStatistics::new(least, greatest, None, Some(nulls), false))
            }
        }
    )+ };
}

numbers! {
    i32: Type::INT32, Int32;
    i64: Type::INT64, Int64;
}

impl Value for &str {
    const TYPE: Type = Type::BYTE_ARRAY;
    const IS_TEXT: bool = true;
    type Bound = Vec<u8>;

    fn put(self, out: &mut Vec<u8>) {
        // A text of a batch has less than 2 GiB.
        out.extend_from_slice(&u32::try_from(self.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(self.as_bytes());
    }

    fn plain_len(self) -> usize {
        size_of::<u32>() + self.len()
    }

    fn text_len(self) -> usize {
        self.len()
    }

    fn lower_bound(self) -> Vec<u8> {
        start(self).into()
    }

    fn upper_bound(self) -> Vec<u8> {
        upper_bound(self).into_bytes()
    }

    fn statistics(range: Option<(Self, Self)>, nulls: u64) -> Statistics {
        let (least, greatest) = range.unzip();
        let (lower, upper) = (least.map(start), greatest.map(upper_bound));
        let min_is_exact = least == lower;
        let max_is_exact = greatest == upper.as_deref();
        let (lower, upper) = (lower.map(ByteArray::from), upper.as_deref().map(ByteArray::from));
        Statistics::ByteArray(
            ValueStatistics::new(lower, upper, None, Some(nulls), false)
                .with_min_is_exact(min_is_exact)
                .with_max_is_exact(max_is_exact),
        )
    }
}

/// The start of a long text, which is not greater than it.
fn start(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(MAX_BOUND_LEN)).0
}

/// A short text that is not less than this one: of a long text the start, with the next character in the last place
/// that has one.
fn upper_bound(text: &str) -> String {
    let mut bound = start(text).to_owned();
    if bound == text {
        return bound;
    }
    while let Some(last) = bound.pop() {
        let next = char::from_u32(u32::from(last) + 1).filter(|next| next.len_utf8() == last.len_utf8());
        if let Some(next) = next {
            bound.push(next);
            return bound;
        }
    }
    text.to_owned()
}
