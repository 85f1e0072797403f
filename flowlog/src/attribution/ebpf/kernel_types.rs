//! Finds fields of the kernel's structures in BTF, the kernel's description of its own types.
//!
//! The programs cannot be relocated when they are loaded, as programs in C can: so the few offsets that
//! they need are found here. The format is `Documentation/bpf/btf.rst` of the kernel; numbers have the
//! order of the host.

use flowlog_common::{OwnerLayout, PathLayout, TaskLayout};

/// The first two bytes, where the order of bytes is the one of this host.
const MAGIC: u16 = 0xeb9f;

/// `BTF_KIND_STRUCT` and `BTF_KIND_UNION`
const KINDS_WITH_FIELDS: [u32; 2] = [4, 5];

/// Structures without a name inside of each other: as deep as anybody goes, and no deeper, since a broken
/// description may contain itself.
const MAX_DEPTH: usize = 8;

/// `BTF_KIND_PTR`, `TYPEDEF`, `VOLATILE`, `CONST`, `RESTRICT` and `TYPE_TAG`: what they are of comes with them.
const KINDS_OF_OTHERS: [u32; 6] = [2, 8, 9, 10, 11, 18];

/// How often a type may be of another, such as a pointer to a constant: for the same reason.
const MAX_OF_OTHERS: usize = 8;

/// Where what the programs read is in the running kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layouts {
    /// Of tasks.
    pub tasks: TaskLayout,
    /// Of what says who a task is; all zero where that is not known.
    pub owners: OwnerLayout,
    /// Of what leads to the path of a program; all zero where that is not known.
    pub paths: PathLayout,
}

/// Offsets of the fields that the programs read; `None` where one of tasks is missing that every kernel has.
pub(super) fn layouts(btf: &[u8]) -> Option<Layouts> {
    let types = Types::parse(btf)?;
    Some(Layouts {
        tasks: task_layout(&types)?,
        owners: owner_layout(&types).unwrap_or_default(),
        paths: path_layout(&types).unwrap_or_default(),
    })
}

fn task_layout(types: &Types<'_>) -> Option<TaskLayout> {
    let [task, mm] = ["task_struct", "mm_struct"].map(|name| types.named(name).next());
    let [task, mm] = [task?, mm?];
    let offset = |of: &Type<'_>, field: &str| types.field(of, field).map(|field| field.offset);
    Some(TaskLayout {
        mm: offset(&task, "mm")?,
        arg_start: offset(&mm, "arg_start")?,
        arg_end: offset(&mm, "arg_end")?,
        real_parent: offset(&task, "real_parent")?,
        tgid: offset(&task, "tgid")?,
        loginuid: offset(&task, "loginuid").unwrap_or(0),
        flags: offset(&task, "flags")?,
        // The names that x86 and arm64 have for it.
        syscall: types
            .named("pt_regs")
            .next()
            .and_then(|regs| ["orig_ax", "syscallno"].iter().find_map(|name| offset(&regs, name)))
            .unwrap_or(0),
    })
}

fn owner_layout(types: &Types<'_>) -> Option<OwnerLayout> {
    let task = types.named("task_struct").next()?;
    let within = |of: &Type<'_>, field: &str| {
        let field = types.field(of, field)?;
        Some((field.offset, types.structure(field.of)?))
    };
    let (cred, of_cred) = within(&task, "cred")?;
    let (cgroups, css_set) = within(&task, "cgroups")?;
    let (cgroup, of_cgroup) = within(&css_set, "dfl_cgrp")?;
    let (node, of_node) = within(&of_cgroup, "kn")?;
    Some(OwnerLayout {
        cred,
        uid: types.field(&of_cred, "uid")?.offset,
        cgroups,
        cgroup,
        node,
        id: types.field(&of_node, "id")?.offset,
        comm: types.field(&task, "comm")?.offset,
    })
}

/// The structures are found from each other, since names such as `path` and `file` may stand for several.
fn path_layout(types: &Types<'_>) -> Option<PathLayout> {
    let mm = types.named("mm_struct").next()?;
    let exe_file = types.field(&mm, "exe_file")?;
    let file = types.structure(exe_file.of)?;
    let f_path = types.field(&file, "f_path")?;
    let path = types.structure(f_path.of)?;
    let [path_mnt, path_dentry] = [types.field(&path, "mnt")?, types.field(&path, "dentry")?];
    let [vfsmount, dentry] = [types.structure(path_mnt.of)?, types.structure(path_dentry.of)?];
    let d_name = types.field(&dentry, "d_name")?;
    let qstr = types.structure(d_name.of)?;
    let d_hash = types.field(&dentry, "d_hash")?;
    let hashed = types.field(&types.structure(d_hash.of)?, "pprev")?;
    let [mount_mnt, mount_parent, mount_point] = types.named("mount").find_map(|mount| {
        let [mnt, parent, point] =
            ["mnt", "mnt_parent", "mnt_mountpoint"].map(|name| types.field(&mount, name));
        Some([mnt?.offset, parent?.offset, point?.offset])
    })?;
    let given = types.named("linux_binprm").next().and_then(|binprm| types.field(&binprm, "filename"));
    Some(PathLayout {
        exe_file: exe_file.offset,
        file_mnt: f_path.offset.checked_add(path_mnt.offset)?,
        file_dentry: f_path.offset.checked_add(path_dentry.offset)?,
        mount_mnt,
        mount_root: mount_mnt.checked_add(types.field(&vfsmount, "mnt_root")?.offset)?,
        mount_parent,
        mount_point,
        dentry_seq: types.field(&dentry, "d_seq")?.offset,
        dentry_parent: types.field(&dentry, "d_parent")?.offset,
        dentry_name: d_name.offset.checked_add(types.field(&qstr, "name")?.offset)?,
        dentry_name_len: d_name.offset.checked_add(types.field(&qstr, "len")?.offset)?,
        dentry_hashed: d_hash.offset.checked_add(hashed.offset)?,
        given: given.map_or(0, |given| given.offset),
    })
}

/// The sections of the description.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`, by its number less 1.
    starts: Vec<usize>,
}

/// A field of a structure.
struct Field {
    /// In bytes.
    offset: u32,
    /// The number of its type.
    of: u32,
}

/// A type with what follows its `struct btf_type`.
struct Type<'a> {
    name: u32,
    kind: u32,
    /// The number of another type, or a size.
    size_or_type: u32,
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
        let (types, strings) = (section(8)?, section(16)?);
        // Ends at a kind that is not known, whose length is not either.
        let starts = std::iter::successors(Some(0), |start| {
            let (_, bytes) = type_at(types, *start)?;
            start.checked_add(bytes)
        });
        let starts = starts.take_while(|start| type_at(types, *start).is_some()).collect();
        (magic == MAGIC).then_some(Self { types, strings, starts })
    }

    /// All structures and unions of this name.
    fn named(&self, name: &str) -> impl Iterator<Item = Type<'a>> {
        let types = self.starts.iter().filter_map(|start| Some(type_at(self.types, *start)?.0));
        types.filter(move |found| KINDS_WITH_FIELDS.contains(&found.kind) && self.is_named(found.name, name))
    }

    fn numbered(&self, number: u32) -> Option<Type<'a>> {
        let start = self.starts.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
        Some(type_at(self.types, *start)?.0)
    }

    /// The structure or union that this type is, or is of: a pointer to it, another name of it, a constant one.
    fn structure(&self, number: u32) -> Option<Type<'a>> {
        let of_other = |found: &Type<'a>| {
            KINDS_OF_OTHERS.contains(&found.kind).then(|| self.numbered(found.size_or_type)).flatten()
        };
        let mut types = std::iter::successors(self.numbered(number), of_other).take(MAX_OF_OTHERS);
        types.find(|found| KINDS_WITH_FIELDS.contains(&found.kind))
    }

    /// A field of a structure, which may be in a structure without a name inside of it.
    fn field(&self, structure: &Type<'_>, field: &str) -> Option<Field> {
        self.field_within(structure, field, MAX_DEPTH)
    }

    fn field_within(&self, structure: &Type<'_>, field: &str, depth: usize) -> Option<Field> {
        let mask = if structure.has_bit_fields { 0x00ff_ffff } else { u32::MAX };
        structure.rest.chunks_exact(12).find_map(|member| {
            let (name, number, bits) = (word(member, 0)?, word(member, 4)?, word(member, 8)? & mask);
            let within = if self.is_named(name, field) {
                Field { offset: 0, of: number }
            } else if self.is_named(name, "") {
                self.field_within(&self.structure(number)?, field, depth.checked_sub(1)?)?
            } else {
                return None;
            };
            Some(Field { offset: (bits / 8).checked_add(within.offset)?, ..within })
        })
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let found = usize::try_from(at).ok().and_then(|at| self.strings.get(at..));
        found.and_then(|found| found.strip_prefix(name.as_bytes())).is_some_and(|end| end.first() == Some(&0))
    }
}

/// The type that begins there, and how many bytes it takes.
fn type_at(types: &[u8], start: usize) -> Option<(Type<'_>, usize)> {
    const HEAD_BYTES: usize = 12;
    let bytes = types.get(start..)?;
    let (name, info, size_or_type) = (word(bytes, 0)?, word(bytes, 4)?, word(bytes, 8)?);
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
    let rest = bytes.get(HEAD_BYTES..HEAD_BYTES + rest_bytes)?;
    Some((Type { name, kind, size_or_type, has_bit_fields: info >> 31 == 1, rest }, HEAD_BYTES + rest_bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTER: u32 = 2;
    const STRUCT: u32 = 4;
    const CONST: u32 = 10;

    /// Name, number of the type, and bits before it.
    type Member = (&'static str, u32, u32);

    /// A description of these structures, numbered from 1, and of types of others, numbered after them.
    fn describe(structures: &[(&str, &[Member])], of_others: &[(u32, u32)]) -> Vec<u8> {
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
        for (kind, number) in of_others {
            types.extend([0, kind << 24, *number]);
        }
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let [types_len, strings_len] =
            [&types, &strings].map(|section| u32::try_from(section.len()).unwrap());
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types_len, types_len, strings_len];
        [header.into_iter().flat_map(u32::to_ne_bytes).collect(), types, strings].concat()
    }

    /// As Linux 6.18 has it in what is peculiar: `f_path` and `d_name` are in unions without names, and constant.
    fn example() -> Vec<u8> {
        describe(
            &[
                ("mm_struct", &[("", 2, 64)]),
                ("", &[("arg_start", 99, 128), ("arg_end", 99, 192), ("exe_file", 19, 256)]),
                ("pt_regs", &[("ax", 99, 0), ("orig_ax", 99, 960)]),
                (
                    "task_struct",
                    &[
                        ("flags", 99, 16),
                        ("tgid", 99, 32),
                        ("real_parent", 99, 64),
                        ("mm", 99, 800),
                        ("loginuid", 99, 96),
                        ("cred", 15, 1600),
                        ("comm", 99, 1664),
                        ("cgroups", 16, 1792),
                    ],
                ),
                // Another one with this name.
                ("path", &[("mnt", 99, 640)]),
                ("file", &[("f_mode", 99, 0), ("", 7, 64)]),
                ("", &[("f_path", 20, 0), ("__f_path", 8, 0)]),
                ("path", &[("mnt", 21, 0), ("dentry", 22, 64)]),
                ("vfsmount", &[("mnt_root", 99, 0)]),
                (
                    "dentry",
                    &[("d_seq", 99, 32), ("d_hash", 12, 64), ("d_parent", 99, 192), ("d_name", 11, 256)],
                ),
                ("qstr", &[("len", 99, 32), ("name", 99, 64)]),
                ("hlist_bl_node", &[("next", 99, 0), ("pprev", 99, 64)]),
                ("mount", &[("mnt_parent", 99, 0)]),
                ("mount", &[("mnt_parent", 99, 128), ("mnt_mountpoint", 99, 192), ("mnt", 9, 256)]),
                ("cred", &[("usage", 99, 0), ("uid", 99, 64)]),
                ("css_set", &[("subsys", 99, 0), ("dfl_cgrp", 17, 960)]),
                ("cgroup", &[("self", 99, 0), ("kn", 18, 320)]),
                ("kernfs_node", &[("count", 99, 0), ("id", 99, 512)]),
            ],
            &[(POINTER, 6), (CONST, 8), (POINTER, 9), (POINTER, 10)],
        )
    }

    #[test]
    fn fields_are_found_also_in_structures_without_a_name() {
        let tasks = TaskLayout {
            mm: 100,
            arg_start: 24,
            arg_end: 32,
            real_parent: 8,
            tgid: 4,
            loginuid: 12,
            flags: 2,
            syscall: 120,
        };
        let owners =
            OwnerLayout { cred: 200, uid: 8, cgroups: 224, cgroup: 120, node: 40, id: 64, comm: 208 };
        let paths = PathLayout {
            exe_file: 40,
            file_mnt: 8,
            file_dentry: 16,
            mount_mnt: 32,
            mount_root: 32,
            mount_parent: 16,
            mount_point: 24,
            dentry_seq: 4,
            dentry_parent: 24,
            dentry_name: 40,
            dentry_name_len: 36,
            dentry_hashed: 16,
            given: 0,
        };
        assert_eq!(layouts(&example()), Some(Layouts { tasks, owners, paths }));
    }

    #[test]
    fn what_is_cut_or_contains_itself_has_no_fields() {
        let example = example();
        for len in 0..example.len() {
            assert_eq!(layouts(&example[..len]), None, "{len} bytes");
        }
        let endless = describe(&[("mm_struct", &[("", 1, 0)]), ("task_struct", &[])], &[]);
        assert_eq!(layouts(&endless), None);
        let circle = describe(&[("mm_struct", &[("exe_file", 2, 0)])], &[(POINTER, 3), (CONST, 2)]);
        assert_eq!(path_layout(&Types::parse(&circle).unwrap()), None);
    }

    #[test]
    fn the_kernel_of_this_host_has_them() {
        let Ok(btf) = std::fs::read(super::super::KERNEL_TYPES) else { return };
        let Layouts { tasks, owners, paths } = layouts(&btf).unwrap();
        assert!(owners.cred > 0 && owners.uid > 0 && owners.cgroups > 0 && owners.cgroup > 0);
        assert!(owners.node > 0 && owners.id > 0 && owners.comm > 0);
        assert!(tasks.mm > 0 && tasks.arg_start > 0 && tasks.arg_end == tasks.arg_start + 8);
        assert!(paths.exe_file > 0 && paths.file_dentry > paths.file_mnt && paths.given > 0);
    }
}
