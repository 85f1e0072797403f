//! Where the fields of a tracepoint are in its context, which the kernel tells in tracefs.

use std::fs;
use std::io;
use std::path::Path;

use flowlog_common::CgroupLayout;
use nix::errno::Errno;

use super::mounts;

/// Where the fields of the tracepoints of cgroups are.
///
/// # Errors
///
/// Where tracefs cannot be mounted, or does not have them. Then tracefs must be mounted.
pub(super) fn cgroup_layout() -> io::Result<CgroupLayout> {
    let file = Path::new(mounts::TRACEFS).join("events/cgroup/cgroup_mkdir/format");
    let format = mounts::with_tracefs(|| fs::read_to_string(file))??;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "found no fields of cgroups there");
    parse(&format).ok_or_else(missing)
}

/// What to do where that cannot be read.
pub(super) fn advice(error: &io::Error) -> String {
    let mount = format!("mount tracefs with `mount -t tracefs none {}`", mounts::TRACEFS);
    // It could not be mounted. What may not be read there is another error.
    if error.raw_os_error() == Some(Errno::EPERM as i32) {
        return format!("{mount}, or run it with CAP_SYS_ADMIN");
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "run it as root, or with CAP_DAC_READ_SEARCH: tracefs is for root alone".to_owned();
    }
    mount
}

fn parse(format: &str) -> Option<CgroupLayout> {
    let field = |name: &str| {
        format.lines().find_map(|line| {
            let (declared, place) = line.trim().strip_prefix("field:")?.split_once(';')?;
            let number = |key: &str| {
                let (_, number) = place.split_once(key)?;
                number.split(';').next()?.parse::<u32>().ok()
            };
            if declared.rsplit([' ', '\t']).next() != Some(name) {
                return None;
            }
            Some((number("offset:")?, number("size:")?))
        })
    };
    let ((id, id_bytes), (root, 4), (level, 4), (path, 4)) =
        (field("id")?, field("root")?, field("level")?, field("path")?)
    else {
        return None;
    };
    matches!(id_bytes, 4 | 8).then_some(CgroupLayout { root, level, id, id_bytes, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Linux 6.18 and of 5.10.
    #[test]
    fn fields_are_where_the_kernel_says() {
        let format = |fields: &str| {
            format!(
                "name: cgroup_mkdir\nID: 544\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
                 \n\tfield:int root;\toffset:8;\tsize:4;\tsigned:1;\n{fields}\n\
                 print fmt: \"root=%d id=%llu level=%d path=%s\", REC->root, REC->id, REC->level, __get_str(path)\n"
            )
        };
        let new = "\tfield:int level;\toffset:12;\tsize:4;\tsigned:1;\n\tfield:u64 id;\toffset:16;\tsize:8;\tsigned:0;\n\
                   \tfield:__data_loc char[] path;\toffset:24;\tsize:4;\tsigned:0;\n";
        let old = "\tfield:int id;\toffset:12;\tsize:4;\tsigned:1;\n\tfield:int level;\toffset:16;\tsize:4;\tsigned:1;\n\
                   \tfield:__data_loc char[] path;\toffset:20;\tsize:4;\tsigned:1;\n";
        let expected = CgroupLayout { root: 8, level: 12, id: 16, id_bytes: 8, path: 24 };
        assert_eq!(parse(&format(new)), Some(expected));
        let expected = CgroupLayout { root: 8, level: 16, id: 12, id_bytes: 4, path: 20 };
        assert_eq!(parse(&format(old)), Some(expected));
        assert_eq!(parse(&format("")), None);
    }
}
