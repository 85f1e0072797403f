//! What the path of a cgroup tells: systemd unit, container, Kubernetes pod. Pure text.
//!
//! Container engines leave no other mark on a process that can be read without asking them. The shapes
//! are the same in all hierarchies, v1 and v2. A path is only as true as who may make cgroups: root, and
//! users below the cgroups that were delegated to them.
//!
//! Of nested containers the innermost counts. What is not one of the known shapes is no container: a
//! monitor (`conmon`, `lxc.monitor`) runs on the host, whatever container its cgroup is named after.

use std::borrow::Cow;

/// Kinds of systemd units that have processes or could have them. Slices only group others.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// What engines put before the id, in the name of a systemd scope or of a directory.
const ENGINES: [&str; 6] = ["docker", "cri-containerd", "crio", "nerdctl", "libpod", "libpod-payload"];

/// Length of the ids of Docker, containerd's CRI, CRI-O and Podman: 32 bytes as hexadecimal digits.
const ID_LEN: usize = 64;

/// The systemd unit: what `systemctl status PID` shows, and below the service of a user's own manager
/// (`user@1000.service`) what `systemctl --user status PID` shows there. Names stay escaped (`\x2d`), as
/// systemctl takes them. `None` where the processes are in a slice or not under systemd.
pub fn unit(path: &str) -> Option<&str> {
    let mut components = components(path);
    let unit = next_unit(&mut components)?;
    let is_user_manager = unit.starts_with("user@") && unit.ends_with(".service");
    is_user_manager.then(|| next_unit(&mut components)).flatten().or(Some(unit))
}

/// The first component that is not a slice, where it is a unit. What is below is the unit's own matter.
fn next_unit<'a>(components: &mut impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = components.find(|name| !name.ends_with(".slice"))?;
    // systemd puts this before names that the kernel has files for.
    let name = name.strip_prefix('_').unwrap_or(name);
    let is_unit = UNIT_SUFFIXES.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
    is_unit.then_some(name)
}

/// The innermost container: its full id, or its name where the engine has no ids (LXC, systemd-nspawn).
///
/// | engine | shapes |
/// |---|---|
/// | Docker | `docker/ID`, `docker-ID.scope` |
/// | containerd, Kubernetes | `cri-containerd-ID.scope`, `podUID/ID`, `SLICE:cri-containerd:ID` |
/// | CRI-O | `crio-ID.scope`, `crio-ID` |
/// | Podman | `libpod-ID.scope`, `libpod-ID`, `libpod-payload-ID` |
/// | any other with such ids | `ID` |
/// | LXC, LXD, Incus, Proxmox | `lxc.payload.NAME`, `lxc.payload/NAME`, `lxc/NAME` |
/// | systemd-nspawn | `machine-NAME.scope/payload`, `systemd-nspawn@NAME.service/payload` |
pub fn container_id(path: &str) -> Option<Cow<'_, str>> {
    let mut components = components(path).rev().peekable();
    while let Some(name) = components.next() {
        let parent = components.peek().copied();
        let found = engine_id(name).or_else(|| lxc_name(name, parent)).map(Cow::Borrowed);
        if let Some(id) = found.or_else(|| nspawn_name(name, parent)) {
            return Some(id);
        }
    }
    None
}

fn engine_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // The colons are those of a name for systemd that a runtime without it took for a directory.
    let (engine, id) = match name.rsplit_once([':', '-']) {
        Some((before, id)) => (before.rsplit(':').next().unwrap_or(before), id),
        None => return is_id(name).then_some(name),
    };
    (ENGINES.contains(&engine) && is_id(id)).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn lxc_name<'a>(name: &'a str, parent: Option<&str>) -> Option<&'a str> {
    match (name.strip_prefix("lxc.payload."), parent) {
        (Some(name), _) => Some(name).filter(|name| !name.is_empty()),
        (None, Some("lxc" | "lxc.payload")) => Some(name),
        _ => None,
    }
}

fn nspawn_name<'a>(name: &str, parent: Option<&'a str>) -> Option<Cow<'a, str>> {
    if name != "payload" {
        return None;
    }
    let parent = parent?;
    let escaped = match parent.strip_prefix("machine-") {
        Some(rest) => rest.strip_suffix(".scope"),
        None => parent.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service")),
    }?;
    unescape(escaped).filter(|name| !name.is_empty())
}

/// Undoes systemd's escapes of bytes, such as `\x2d`. `None` where what comes out is no text.
fn unescape(escaped: &str) -> Option<Cow<'_, str>> {
    let mut parts = escaped.split("\\x");
    let mut bytes = parts.next()?.as_bytes().to_vec();
    if bytes.len() == escaped.len() {
        return Some(Cow::Borrowed(escaped));
    }
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The Kubernetes pod, also of a container that runs inside one of its containers. The uid has the form
/// of the API server; for a static pod, which the kubelet makes from a file, it is the hash of that file.
pub fn pod_uid(path: &str) -> Option<String> {
    components(path)
        .enumerate()
        .filter_map(|(at, name)| {
            let is_kubernetes = components(path).take(at + 1).any(|above| above.contains("kubepods"));
            is_kubernetes.then(|| uid_of_pod(name)).flatten()
        })
        .last()
}

fn uid_of_pod(name: &str) -> Option<String> {
    let name = name.split(':').next()?;
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.rsplit_once("-pod") {
        Some((_, uid)) => uid,
        None => name.strip_prefix("pod")?,
    };
    // A hyphen in the name of a slice stands for a level, so the kubelet writes it otherwise.
    let uid = uid.replace('_', "-");
    let parts: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_uid = matches!(lengths.as_slice(), [8, 4, 4, 4, 12] | [32]);
    (is_uid && parts.into_iter().all(is_hex)).then_some(uid)
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f4b1c0d9e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c";
    const OTHER: &str = "00000000000000000000000000000000000000000000000000000000000000ff";
    const POD: &str = "7d9f1c2e-3b4a-4d5e-8f60-a1b2c3d4e5f6";
    const STATIC_POD: &str = "d41d8cd98f00b204e9800998ecf8427e";

    /// In a path `ID`, `OTHER`, `POD`, `P_O_D` (the same in a slice) and `STATIC` stand for the above.
    fn check(path: &str, unit_: Option<&str>, container: Option<&str>, pod: Option<&str>) {
        let fill = |text: &str| {
            text.replace("OTHER", OTHER)
                .replace("P_O_D", &POD.replace('-', "_"))
                .replace("POD", POD)
                .replace("STATIC", STATIC_POD)
                .replace("ID", ID)
        };
        let path = fill(path);
        assert_eq!(unit(&path).map(str::to_owned), unit_.map(fill), "unit of {path}");
        assert_eq!(container_id(&path).map(Cow::into_owned), container.map(fill), "container of {path}");
        assert_eq!(pod_uid(&path), pod.map(fill), "pod of {path}");
    }

    #[test]
    fn units() {
        for (path, unit) in [
            ("/", None),
            ("", None),
            ("/init.scope", Some("init.scope")),
            ("/system.slice", None),
            ("/user.slice/user-1000.slice", None),
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            // What a service makes below itself is its own matter.
            ("/system.slice/app.service/worker.scope", Some("app.service")),
            ("/system.slice/systemd-udevd.service/udev", Some("systemd-udevd.service")),
            ("/system.slice/cups.socket", Some("cups.socket")),
            ("/system.slice/home.mount", Some("home.mount")),
            ("/system.slice/dev-disk-by\\x2duuid-1.swap", Some("dev-disk-by\\x2duuid-1.swap")),
            ("/system.slice/_cgroup.service", Some("cgroup.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("init.scope")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", Some("foo.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
                Some("vte-spawn-1.scope"),
            ),
            // Not under systemd.
            ("/my/own/group", None),
            ("/my/own.service", None),
            ("/.service", None),
        ] {
            check(path, unit, None, None);
        }
    }

    #[test]
    fn docker_and_containerd() {
        for (path, unit, container) in [
            ("/docker/ID", None, Some("ID")),
            ("/docker/ID/init", None, Some("ID")),
            ("/system.slice/docker-ID.scope", Some("docker-ID.scope"), Some("ID")),
            ("/system.slice/docker-ID.scope/system.slice/sshd.service", Some("docker-ID.scope"), Some("ID")),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
                Some("docker-ID.scope"),
                Some("ID"),
            ),
            ("/my.slice/docker-ID.scope", Some("docker-ID.scope"), Some("ID")),
            ("/my/parent/ID", None, Some("ID")),
            ("/default/ID", None, Some("ID")),
            ("/system.slice/nerdctl-ID.scope", Some("nerdctl-ID.scope"), Some("ID")),
            ("/system.slice:docker:ID", None, Some("ID")),
            // Of nested containers the innermost.
            ("/docker/ID/docker/OTHER", None, Some("OTHER")),
            ("/system.slice/docker-ID.scope/docker/OTHER", Some("docker-ID.scope"), Some("OTHER")),
            ("/docker/ID/docker/buildkit/executor", None, Some("ID")),
            // Not containers.
            ("/docker", None, None),
            ("/system.slice/docker.service", Some("docker.service"), None),
            ("/docker/3f4b1c0d9e8a", None, None),
            ("/docker/IDff", None, None),
            ("/system.slice/other-ID.scope", Some("other-ID.scope"), None),
            ("/docker/3F4B1C0D9E8A7B6C5D4E3F2A1B0C9D8E7F6A5B4C3D2E1F0A9B8C7D6E5F4A3B2C", None, None),
        ] {
            check(path, unit, container, None);
        }
    }

    #[test]
    fn kubernetes() {
        let scope = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podP_O_D.slice";
        let containerd = format!("{scope}/cri-containerd-ID.scope");
        let crio = format!("{scope}/crio-ID.scope");
        let crio_nested = format!("{scope}/crio-ID.scope/container");
        let conmon = format!("{scope}/crio-conmon-ID.scope");
        for (path, unit, container, pod) in [
            (containerd.as_str(), Some("cri-containerd-ID.scope"), Some("ID"), Some("POD")),
            (&crio, Some("crio-ID.scope"), Some("ID"), Some("POD")),
            (&crio_nested, Some("crio-ID.scope"), Some("ID"), Some("POD")),
            // The monitor of a container is outside of it.
            (&conmon, Some("crio-conmon-ID.scope"), None, Some("POD")),
            (scope, None, None, Some("POD")),
            ("/kubepods/besteffort/podPOD/ID", None, Some("ID"), Some("POD")),
            ("/kubepods/podPOD/ID", None, Some("ID"), Some("POD")),
            ("/kubepods/burstable/podPOD/crio-ID", None, Some("ID"), Some("POD")),
            ("/kubepods/burstable/podSTATIC/ID", None, Some("ID"), Some("STATIC")),
            (
                "/kubepods.slice/kubepods-podP_O_D.slice/docker-ID.scope",
                Some("docker-ID.scope"),
                Some("ID"),
                Some("POD"),
            ),
            (
                "/system.slice/containerd.service/kubepods-besteffort-podP_O_D.slice:cri-containerd:ID",
                Some("containerd.service"),
                Some("ID"),
                Some("POD"),
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podP_O_D.slice/cri-containerd-ID.scope",
                Some("cri-containerd-ID.scope"),
                Some("ID"),
                Some("POD"),
            ),
            // A node in a container, and a container in a container of a pod.
            ("/docker/OTHER/kubelet/kubepods/podPOD/ID", None, Some("ID"), Some("POD")),
            ("/kubepods/podPOD/OTHER/docker/ID", None, Some("ID"), Some("POD")),
            // Not pods.
            ("/podPOD", None, None, None),
            ("/kubepods/pod123", None, None, None),
            ("/kubepods/burstable", None, None, None),
        ] {
            check(path, unit, container, pod);
        }
    }

    #[test]
    fn podman() {
        let user = "/user.slice/user-1000.slice/user@1000.service/user.slice";
        let scope = format!("{user}/libpod-ID.scope/container");
        let conmon = format!("{user}/libpod-conmon-ID.scope");
        for (path, unit, container) in [
            ("/machine.slice/libpod-ID.scope", Some("libpod-ID.scope"), Some("ID")),
            ("/machine.slice/libpod-ID.scope/container", Some("libpod-ID.scope"), Some("ID")),
            (&scope, Some("libpod-ID.scope"), Some("ID")),
            ("/libpod_parent/libpod-ID", None, Some("ID")),
            ("/system.slice/web.service/libpod-payload-ID", Some("web.service"), Some("ID")),
            // The monitor of a container is outside of it.
            ("/machine.slice/libpod-conmon-ID.scope", Some("libpod-conmon-ID.scope"), None),
            (&conmon, Some("libpod-conmon-ID.scope"), None),
            ("/libpod_parent/conmon", None, None),
        ] {
            check(path, unit, container, None);
        }
    }

    #[test]
    fn lxc_and_nspawn() {
        for (path, unit, container) in [
            ("/lxc/web", None, Some("web")),
            ("/lxc/101/ns/system.slice/nginx.service", None, Some("101")),
            ("/lxc.payload.web", None, Some("web")),
            ("/lxc.payload.web/system.slice/nginx.service", None, Some("web")),
            ("/lxc.payload/web", None, Some("web")),
            ("/lxc.payload.outer/lxc.payload.inner", None, Some("inner")),
            ("/lxc/web/docker/ID", None, Some("ID")),
            ("/system.slice/lxc@web.service/lxc.payload.web", Some("lxc@web.service"), Some("web")),
            ("/lxc.monitor.web", None, None),
            ("/lxc.monitor/web", None, None),
            ("/lxc.pivot", None, None),
            ("/lxc.payload.", None, None),
            ("/lxc", None, None),
            ("/machine.slice/machine-web.scope/payload", Some("machine-web.scope"), Some("web")),
            (
                "/machine.slice/machine-my\\x2dbox.scope/payload/init.scope",
                Some("machine-my\\x2dbox.scope"),
                Some("my-box"),
            ),
            (
                "/machine.slice/systemd-nspawn@my\\x2dbox.service/payload",
                Some("systemd-nspawn@my\\x2dbox.service"),
                Some("my-box"),
            ),
            (
                "/machine.slice/systemd-nspawn@web.service/supervisor",
                Some("systemd-nspawn@web.service"),
                None,
            ),
            ("/machine.slice/machine-bad\\xzz.scope/payload", Some("machine-bad\\xzz.scope"), None),
            ("/machine.slice/machine-bad\\x2.scope/payload", Some("machine-bad\\x2.scope"), None),
            // A virtual machine.
            (
                "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
                Some("machine-qemu\\x2d1\\x2dvm.scope"),
                None,
            ),
        ] {
            check(path, unit, container, None);
        }
    }

    /// A component of a path: the known words, and anything at all.
    fn component() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "docker",
            "kubepods",
            "lxc",
            "lxc.payload.",
            "payload",
            "machine-a\\x2db.scope",
            "user@1000.service",
            "app.slice",
            "cri-containerd-",
            "pod",
            POD,
            ID,
            ".scope",
            "\\x",
            "\\xff",
            ":",
        ])
        .prop_map(str::to_owned);
        prop::collection::vec(prop_oneof![known, any::<String>()], 0..4).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn everything_comes_from_the_path(components in prop::collection::vec(component(), 0..6)) {
            let path = components.join("/");
            if let Some(unit) = unit(&path) {
                prop_assert!(path.contains(unit));
            }
            match container_id(&path) {
                Some(Cow::Borrowed(id)) => prop_assert!(!id.is_empty() && path.contains(id)),
                Some(Cow::Owned(_)) => prop_assert!(path.contains("\\x")),
                None => {}
            }
            if let Some(uid) = pod_uid(&path) {
                prop_assert!(path.replace('_', "-").contains(&uid));
            }
        }
    }
}
