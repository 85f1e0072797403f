//! The names of secrets: words in names of options, and options of programs.

/// A name has a secret if this is anywhere in it; without case, dashes, dots and underscores.
const ANYWHERE: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "sharedkey",
    "credential",
    "authorization",
    "cookie",
    "sessionid",
];

/// A name has a secret if this is one of its words: it has another meaning within a longer word.
const WORDS: [&str; 13] = [
    "pass", "pwd", "pw", "psk", "auth", "oauth", "userpass", "session", "bearer", "passin", "passout",
    "cred", "creds",
];

/// The last word of names that say where a secret is, but not what it is.
const PLACES: [&str; 6] = ["file", "path", "dir", "directory", "fd", "stdin"];

/// Options whose value is a user, perhaps with a password.
const USERS: [&str; 6] = ["-u", "-U", "--user", "--proxy-user", "--userpwd", "--proxy-userpwd"];

/// Programs with short options for a secret, and whether its value is the next argument too.
const PROGRAMS: [(&str, &str, bool); 51] = [
    ("7z", "-p", false),
    ("7za", "-p", false),
    ("7zr", "-p", false),
    ("bcp", "-P", true),
    ("cqlsh", "-p", true),
    ("curl", "-b", true),
    ("curl", "-E", true),
    ("docker", "-p", true),
    ("http", "-a", true),
    ("https", "-a", true),
    ("influx", "-p", true),
    ("ipmitool", "-P", true),
    ("isql", "-P", true),
    ("ldapadd", "-w", true),
    ("ldapcompare", "-w", true),
    ("ldapdelete", "-w", true),
    ("ldapmodify", "-w", true),
    ("ldapmodrdn", "-w", true),
    ("ldappasswd", "-w", true),
    ("ldappasswd", "-s", true),
    ("ldapsearch", "-w", true),
    ("ldapwhoami", "-w", true),
    ("mariadb", "-p", false),
    ("mariadb-admin", "-p", false),
    ("mariadb-dump", "-p", false),
    ("mongo", "-p", true),
    ("mongodump", "-p", true),
    ("mongoexport", "-p", true),
    ("mongoimport", "-p", true),
    ("mongorestore", "-p", true),
    ("mongosh", "-p", true),
    ("mosquitto_pub", "-P", true),
    ("mosquitto_sub", "-P", true),
    ("mycli", "-p", false),
    ("mysql", "-p", false),
    ("mysqladmin", "-p", false),
    ("mysqldump", "-p", false),
    ("mysqlimport", "-p", false),
    ("mysqlshow", "-p", false),
    ("podman", "-p", true),
    ("rar", "-p", false),
    ("redis-cli", "-a", true),
    ("snmpget", "-A", true),
    ("snmpget", "-X", true),
    ("snmpwalk", "-A", true),
    ("snmpwalk", "-X", true),
    ("sqlcmd", "-P", true),
    ("sshpass", "-p", true),
    ("tsql", "-P", true),
    ("unrar", "-p", false),
    ("zip", "-P", true),
];

/// Programs that take a line for a shell after `-c`.
const SHELLS: [&str; 11] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "busybox", "su", "runuser"];

/// Where the secret of a short option is.
pub(super) enum Attached<'a> {
    /// In the same argument, after this option.
    Here(&'a str),
    /// In the next argument.
    Next,
}

/// What is known of the programs that were named so far.
#[derive(Default)]
pub(super) struct Secrets {
    program: Option<&'static str>,
    has_shell: bool,
    /// These use `-p` for ports, too.
    is_login: bool,
}

impl Secrets {
    /// Takes note of a program or of its command.
    pub(super) fn look_at(&mut self, arg: &str) {
        let name = arg.rsplit('/').next().unwrap_or(arg).trim_start_matches(['"', '\'', '(', ';', '-']);
        if let Some((program, ..)) = PROGRAMS.iter().find(|(program, ..)| *program == name) {
            self.program = Some(program);
        }
        self.has_shell |= SHELLS.contains(&name);
        self.is_login |= name == "login";
    }

    /// The short option for a secret that `arg` is, or begins with.
    pub(super) fn attached<'a>(&self, arg: &'a str) -> Option<Attached<'a>> {
        let own = PROGRAMS.iter().filter(|(program, ..)| Some(*program) == self.program);
        let (program, option, in_next) =
            own.filter(|(_, option, _)| arg.starts_with(option)).max_by_key(|(_, option, _)| option.len())?;
        if matches!(*program, "docker" | "podman") && !self.is_login {
            return None;
        }
        match arg.split_at(option.len()) {
            (_, "") => in_next.then_some(Attached::Next),
            (option, _) => Some(Attached::Here(option)),
        }
    }

    /// Whether a line for a shell follows this option.
    pub(super) fn is_script(&self, option: &str) -> bool {
        let is_short = option.len() <= 5 && !option.starts_with("--");
        self.has_shell && (is_short && option.ends_with('c') || option == "--command")
    }
}

/// Whether a user follows this option.
pub(super) fn is_user(option: &str) -> bool {
    USERS.contains(&option)
}

/// Whether the value of what has this name is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let words: Vec<String> = words(name).collect();
    let is_place = words.last().is_some_and(|last| PLACES.contains(&last.as_str()));
    let is_negated = words.first().is_some_and(|first| first == "no");
    let joined = words.concat();
    let is_named = ANYWHERE.iter().any(|secret| joined.contains(secret))
        || words.iter().any(|word| WORDS.contains(&word.as_str()));
    is_named && !is_place && !is_negated
}

/// The words of a name in lower case: `DB_PASS`, `db-pass` and `dbPass` have the same.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let mut was_lower = false;
        let end = rest.find(|c: char| {
            let begins = !c.is_ascii_alphanumeric() || c.is_ascii_uppercase() && was_lower;
            was_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
            begins
        });
        let (word, following) = rest.split_at(end.unwrap_or(rest.len()));
        rest = following;
        (!word.is_empty()).then(|| word.to_ascii_lowercase())
    })
}
