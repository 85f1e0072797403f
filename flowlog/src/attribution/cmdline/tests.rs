use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(args: &[&str], expected: &str) {
    let bytes: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
    assert_eq!(text(&bytes, false, Mode::Masked).as_deref(), Some(expected));
    assert_eq!(text(&bytes, false, Mode::Full), Some(args.join(" ")));
    assert_eq!(text(&bytes, false, Mode::Off), None);
}

#[test]
fn arguments_are_separated_by_spaces() {
    check(&["/bin/ls", "-l", "", "a b"], "/bin/ls -l  a b");
    assert_eq!(text(b"", false, Mode::Full), None);
    assert_eq!(text(b"\0", false, Mode::Full), None, "never the empty text");
    assert_eq!(text(b"title\0\0\0", false, Mode::Full).as_deref(), Some("title"));
    assert_eq!(text(b"a\0b\xff", true, Mode::Full).as_deref(), Some("a b\u{fffd}..."));
}

#[test]
fn values_of_options_that_look_like_secrets_are_hidden() {
    check(&["x", "--password=s", "--port=1"], "x --password=*** --port=1");
    check(&["x", "--password", "s", "host"], "x --password *** host");
    check(&["x", "-password", "-s", "host"], "x -password *** host");
    check(&["x", "--db.apiKey=s"], "x --db.apiKey=***");
    check(&["x", "--private-key", "s"], "x --private-key ***");
    check(&["x", "--auth-token=s", "--author=me"], "x --auth-token=*** --author=me");
    check(&["x", "--password=two words \"and\" more"], "x --password=***");
    check(
        &["java", "-Dspring.datasource.password=s", "-jar", "a.jar"],
        "java -Dspring.datasource.password=*** -jar a.jar",
    );
    check(&["mount", "-o", "user=a,password=s,uid=1"], "mount -o user=a,password=***");
    check(&["helm", "--set", "db.pass=s"], "helm --set db.pass=***");
}

#[test]
fn what_only_sounds_like_a_secret_stays() {
    check(&["x", "--password-file=/a", "--bypass", "yes"], "x --password-file=/a --bypass yes");
    check(&["x", "--no-password", "host"], "x --no-password host");
    check(&["git", "commit", "--author", "me", "-p"], "git commit --author me -p");
    check(&["mkdir", "-p", "a", "--passive", "b"], "mkdir -p a --passive b");
    check(&["docker", "run", "-p", "80:80", "-u", "1000:1000"], "docker run -p 80:80 -u 1000:1000");
    check(&["kubectl", "get", "secret", "name"], "kubectl get secret name");
}

#[test]
fn short_options_are_secrets_only_of_programs_that_have_them() {
    check(&["mysql", "-ps", "-uroot", "-p", "db"], "mysql -p*** -uroot -p db");
    check(&["/usr/bin/sudo", "-E", "/usr/bin/mysqldump", "-ps"], "/usr/bin/sudo -E /usr/bin/mysqldump -p***");
    check(&["sshpass", "-p", "s", "ssh", "host"], "sshpass -p *** ssh host");
    check(&["redis-cli", "-a", "s", "ping"], "redis-cli -a *** ping");
    check(&["docker", "login", "-u", "me", "-p", "s"], "docker login -u me -p ***");
}

#[test]
fn users_may_have_a_password() {
    check(&["curl", "-u", "me:s", "http://a"], "curl -u me:*** http://a");
    check(&["curl", "--user=me:s"], "curl --user=me:***");
    check(&["smbclient", "-U", "me%s", "//a/b"], "smbclient -U me%*** //a/b");
    check(&["ssh", "-u", "me", "--token", "s"], "ssh -u me --token ***");
    check(&["x", "-u", "--token", "s"], "x -u --token ***");
}

#[test]
fn passwords_in_urls_are_hidden() {
    check(&["git", "clone", "https://me:s@host/a?b"], "git clone https://me:***@host/a?b");
    check(&["git", "clone", "https://token@host/a"], "git clone https://***@host/a");
    check(&["x", "redis://:s@host:6379/0"], "x redis://:***@host:6379/0");
    check(&["x", "postgres://me:s/s#s@host/db"], "x postgres://me:***@host/db");
    check(
        &["x", "postgres://me:#s:s@host", "mysql://me:s:#s@host"],
        "x postgres://me:***@host mysql://me:***@host",
    );
    check(&["x", "http://host:80/a@b", "http://[::1]/a@b"], "x http://host:80/a@b http://[::1]/a@b");
    check(&["x", "url=https://a/?page=1&access_token=s&b"], "x url=https://a/?page=1&access_token=***");
}

#[test]
fn headers_documents_and_variables_are_looked_into() {
    check(&["curl", "-H", "Authorization: Bearer s"], "curl -H Authorization: ***");
    check(&["curl", "-H", "X-Api-Key:s", "http://a"], "curl -H X-Api-Key:*** http://a");
    check(&["curl", "-H", "Cookie: a=s; b=s"], "curl -H Cookie: ***");
    check(&["x", "Bearer s"], "x Bearer ***");
    check(
        &["curl", "-d", r#"{"user":"me","password": "s \" s","a":1}"#],
        r#"curl -d {"user":"me","password": "***","a":1}"#,
    );
    check(&["python3", "-c", "run(['a', '--token', 's'], b)"], "python3 -c run(['a', '--token', '***'], b)");
    check(&["env", "PGPASSWORD=s s", "psql", "-h", "a"], "env PGPASSWORD=*** psql -h a");
    check(&["x", "Server=a;Uid=b;Pwd=s s;"], "x Server=a;Uid=b;Pwd=***");
}

#[test]
fn lines_for_a_shell_are_looked_into_word_by_word() {
    check(&["sh", "-c", "PGPASSWORD=s psql -h a"], "sh -c PGPASSWORD=*** psql -h a");
    check(
        &["bash", "-lc", "mysql -ps -h a; x --password 's s' b"],
        "bash -lc mysql -p*** -h a; x --password *** b",
    );
    check(
        &["sh", "-c", "exec curl -H \"Authorization: Bearer s\" http://a"],
        "sh -c exec curl -H \"Authorization: *** http://a",
    );
    check(&["sh", "-c", "sh -c 'mysql -ps a'"], "sh -c sh -c 'mysql -p*** a'");
    check(&["ssh", "host", "mysql -ps a"], "ssh host mysql -p*** a");
    check(&["ssh", "host", "x --password s s"], "ssh host x --password ***");
}

/// A place for a secret in the arguments of a program.
fn command(place: usize, secret: &str) -> Vec<String> {
    let commands: &[&[&str]] = &[
        &["x", "--password=@"],
        &["x", "--password", "@"],
        &["x", "-token", "@"],
        &["x", "API_KEY=@"],
        &["x", "--client-secret:@"],
        &["x", "--set", "a.b=c,db.passwd=@"],
        &["mysql", "-p@", "db"],
        &["sudo", "sshpass", "-p", "@", "ssh", "host"],
        &["curl", "-H", "Authorization: Basic @"],
        &["curl", "-H", "X-Auth-Token: @", "http://a"],
        &["curl", "-u", "me:@", "http://a"],
        &["x", "--user=me:@"],
        &["sh", "-c", "PASSWORD='@' x"],
        &["sh", "-c", "x --session-token \"@\" y"],
        &["curl", "-d", "{\"a\":{\"secret\":\"@\"}}"],
        &["x", "mysql://me:@@host/db"],
        &["x", "http://a/?b=c&access_key=@"],
    ];
    commands[place % commands.len()].iter().map(|arg| arg.replacen('@', secret, 1)).collect()
}

#[test]
fn bytes_that_are_no_utf_8_make_no_longer_text() {
    let text = text(&[0xff; MAX_TEXT_BYTES], false, Mode::Masked).unwrap();
    assert_eq!(text, "\u{fffd}".repeat(MAX_TEXT_BYTES / 3) + CUT);
}

proptest! {
    #[test]
    fn no_secret_survives(place in 0_usize..17, secret in "[a-zA-Z0-9%/+=.:,;&!#$*^(){}~-]{4,30}x") {
        let args = command(place, &format!("S3cr{secret}"));
        let bytes: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
        let masked = text(&bytes, false, Mode::Masked).unwrap();
        prop_assert!(!masked.contains("S3cr"), "{masked}");
        prop_assert!(!masked.contains(&secret), "{masked}");
        prop_assert!(masked.contains(HIDDEN));
    }

    #[test]
    fn any_bytes_become_a_text(args in proptest::collection::vec(any::<u8>(), 0..300), is_cut: bool) {
        for mode in [Mode::Masked, Mode::Full] {
            let text = text(&args, is_cut, mode);
            prop_assert_eq!(text.is_some(), args.iter().any(|byte| *byte != 0));
        }
    }

    #[test]
    fn any_words_become_a_text(
        words in proptest::collection::vec(
            prop_oneof!["(--?|)(password|token|u|user|c|p|auth)[=: ]?", "(my|)sql|sh|curl|login", "[\"'\\\\@:/ =é\u{2003}]{0,4}"],
            0..30,
        ),
        separator in "[ \0]",
    ) {
        prop_assert!(text(words.join(&separator).as_bytes(), false, Mode::Masked).is_none_or(|text| !text.is_empty()));
    }
}
