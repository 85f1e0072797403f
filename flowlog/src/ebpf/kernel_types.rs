//! Finds fields of the kernel's structures in BTF, the kernel's description of its own types.
//!
//! The programs cannot be relocated when they are loaded, as programs in C can: so the few offsets that
//! they need are found here. The format is `Documentation/bpf/btf.rst` of the kernel; numbers have the
//! order of the host.

use flowlog_common::TaskLayout;

/// The first two bytes, where the order of bytes is the one of this host.
const MAGIC: u16 = 0xeb9f;

/// `BTF_KIND_STRUCT` and `BTF_KIND_UNION`
const KINDS_WITH_FIELDS: [u32; 2] = [4, 5];

/// Structures without a name inside of each other: as deep as anybody goes, and no deeper, since a broken
/// description may contain itself.
const MAX_DEPTH: usize = 8;

/// Offsets of the fields that the programs read; `None` where one is missing that every kernel has.
pub(super) fn task_layout(btf: &[u8]) -> Option<TaskLayout> {
    let types = Types::parse(btf)?;
    let [task, mm] = ["task_struct", "mm_struct"].map(|name| types.named(name));
    let [task, mm] = [task?, mm?];
    Some(TaskLayout {
        mm: types.offset(&task, "mm", MAX_DEPTH)?,
        arg_start: types.offset(&mm, "arg_start", MAX_DEPTH)?,
        arg_end: types.offset(&mm, "arg_end", MAX_DEPTH)?,
        real_parent: types.offset(&task, "real_parent", MAX_DEPTH)?,
        tgid: types.offset(&task, "tgid", MAX_DEPTH)?,
        loginuid: types.offset(&task, "loginuid", MAX_DEPTH).unwrap_or(0),
        flags: types.offset(&task, "flags", MAX_DEPTH)?,
        // The names that x86 and arm64 have for it.
        syscall: types
            .named("pt_regs")
            .and_then(|regs| {
                ["orig_ax", "syscallno"].iter().find_map(|name| types.offset(&regs, name, MAX_DEPTH))
            })
            .unwrap_or(0),
    })
}

/// The sections of the description.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A type with what follows its `struct btf_type`.
struct Type<'a> {
    name: u32,
    kind: u32,
    /// The upper bits of an offset of its fields are the size of a bit field.
    has_bit_fields: bool,
    rest: &'a [u8],
}

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*btf.first_chunk()?);
        let header_bytes = word(btf, 4)?;
        let section = |at| {
            let start = usize::try_from(word(btf, at)?.checked_add(header_bytes)?).ok()?;
            let bytes = usize::try_from(word(btf, at + 4)?).ok()?;
            btf.get(start..start.checked_add(bytes)?)
        };
        (magic == MAGIC).then_some(Self { types: section(8)?, strings: section(16)? })
    }

    /// All types in the order of their numbers, from 1. Ends at a kind that is not known, whose length
    /// is not either.
    fn iter(&self) -> impl Iterator<Item = Type<'a>> {
        let mut bytes = self.types;
        std::iter::from_fn(move || {
            let (name, info) = (word(bytes, 0)?, word(bytes, 4)?);
            let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            let rest_bytes = match kind {
                // INT, VAR and DECL_TAG
                1 | 14 | 17 => 4,
                // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT and TYPE_TAG
                2 | 7..=12 | 16 | 18 => 0,
                // ARRAY
                3 => 12,
                // ENUM and FUNC_PROTO
                6 | 13 => count * 8,
                // STRUCT, UNION, DATASEC and ENUM64
                4 | 5 | 15 | 19 => count * 12,
                _ => return None,
            };
            let (rest, following) = bytes.get(12..)?.split_at_checked(rest_bytes)?;
            bytes = following;
            Some(Type { name, kind, has_bit_fields: info >> 31 == 1, rest })
        })
    }

    fn named(&self, name: &str) -> Option<Type<'a>> {
        self.iter().find(|found| KINDS_WITH_FIELDS.contains(&found.kind) && self.is_named(found.name, name))
    }

    fn numbered(&self, number: u32) -> Option<Type<'a>> {
        let found = self.iter().nth(usize::try_from(number).ok()?.checked_sub(1)?)?;
        KINDS_WITH_FIELDS.contains(&found.kind).then_some(found)
    }

    /// Where a field is in a structure, in bytes. It may be in a structure without a name inside of it.
    fn offset(&self, structure: &Type<'_>, field: &str, depth: usize) -> Option<u32> {
        let mask = if structure.has_bit_fields { 0x00ff_ffff } else { u32::MAX };
        structure.rest.chunks_exact(12).find_map(|member| {
            let (name, number, bits) = (word(member, 0)?, word(member, 4)?, word(member, 8)? & mask);
            let within = if self.is_named(name, field) {
                0
            } else if self.is_named(name, "") {
                self.offset(&self.numbered(number)?, field, depth.checked_sub(1)?)?
            } else {
                return None;
            };
            (bits / 8).checked_add(within)
        })
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let found = usize::try_from(at).ok().and_then(|at| self.strings.get(at..));
        found.and_then(|found| found.strip_prefix(name.as_bytes())).is_some_and(|end| end.first() == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRUCT: u32 = 4;

    /// Name, number of the type, and bits before it.
    type Field = (&'static str, u32, u32);

    /// A description of these structures, numbered from 1.
    fn describe(structures: &[(&str, &[Field])]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut name = |name: &str| {
            let at = if name.is_empty() { 0 } else { strings.len() };
            strings.extend(name.bytes());
            strings.push(0);
            u32::try_from(at).unwrap()
        };
        let mut types = Vec::new();
        for (structure, fields) in structures {
            let count = u32::try_from(fields.len()).unwrap();
            types.extend([name(structure), STRUCT << 24 | count, 0]);
            for (field, number, bits) in *fields {
                types.extend([name(field), *number, *bits]);
            }
        }
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let [types_len, strings_len] =
            [&types, &strings].map(|section| u32::try_from(section.len()).unwrap());
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types_len, types_len, strings_len];
        [header.into_iter().flat_map(u32::to_ne_bytes).collect(), types, strings].concat()
    }

    fn example() -> Vec<u8> {
        describe(&[
            ("mm_struct", &[("", 2, 64)]),
            ("", &[("arg_start", 9, 128), ("arg_end", 9, 192)]),
            ("pt_regs", &[("ax", 9, 0), ("orig_ax", 9, 960)]),
            (
                "task_struct",
                &[
                    ("flags", 9, 16),
                    ("tgid", 9, 32),
                    ("real_parent", 9, 64),
                    ("mm", 9, 800),
                    ("loginuid", 9, 96),
                ],
            ),
        ])
    }

    #[test]
    fn fields_are_found_also_in_structures_without_a_name() {
        let expected = TaskLayout {
            mm: 100,
            arg_start: 24,
            arg_end: 32,
            real_parent: 8,
            tgid: 4,
            loginuid: 12,
            flags: 2,
            syscall: 120,
        };
        assert_eq!(task_layout(&example()), Some(expected));
    }

    #[test]
    fn what_is_cut_or_contains_itself_has_no_fields() {
        let example = example();
        for len in 0..example.len() {
            assert_eq!(task_layout(&example[..len]), None, "{len} bytes");
        }
        let endless = describe(&[("mm_struct", &[("", 1, 0)]), ("task_struct", &[])]);
        assert_eq!(task_layout(&endless), None);
    }

    #[test]
    fn the_kernel_of_this_host_has_them() {
        let Ok(btf) = std::fs::read(super::super::KERNEL_TYPES) else { return };
        let TaskLayout { mm, arg_start, arg_end, .. } = task_layout(&btf).unwrap();
        assert!(mm > 0 && arg_start > 0 && arg_end == arg_start + 8);
    }
}
