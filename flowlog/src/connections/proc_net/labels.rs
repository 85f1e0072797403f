//! Names of connection labels: `connlabel.conf`.

/// Which of the 128 labels have which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelNames(Vec<(u8, String)>);

impl LabelNames {
    /// Reads lines of a number and a name, as libnetfilter_conntrack does: a name may have letters, digits, `-` and
    /// spaces, and goes up to the end of the line. Lines that are not like that are comments.
    pub fn parse(text: &str) -> Self {
        let mut names = Vec::new();
        for line in text.lines() {
            let Some((number, name)) = line.trim().split_once([' ', '\t']) else { continue };
            let name = name.trim();
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b" -".contains(&byte);
            let number = number_of_any_base(number).filter(|bit| *bit < 128);
            if let Some(bit) = number
                && !name.is_empty()
                && name.bytes().all(is_name)
                // The first name of a label and the first label of a name count.
                && !names.iter().any(|(other, other_name)| *other == bit || other_name == name)
            {
                names.push((bit, name.to_owned()));
            }
        }
        names.sort_unstable();
        Self(names)
    }

    /// The label with this name.
    pub fn bit(&self, name: &str) -> Option<u8> {
        self.0.iter().find(|(_, other)| other == name).map(|(bit, _)| *bit)
    }

    /// Names of the labels that are set, in the order of their numbers. Labels without a name are left
    /// out.
    pub fn of<'a>(&'a self, labels: &[u8; 16]) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|(bit, _)| is_set(labels, *bit)).map(|(_, name)| name.as_str())
    }
}

/// As strtoul(3) reads it: `0x10` is 16, and `010` is 8.
fn number_of_any_base(text: &str) -> Option<u8> {
    let (digits, base) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    u8::from_str_radix(digits, base).ok().filter(|_| !digits.starts_with('+'))
}

/// Whether a label is set.
pub fn is_set(labels: &[u8; 16], bit: u8) -> bool {
    labels.get(usize::from(bit / 8)).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}

/// Sets a label.
pub fn set(labels: &mut [u8; 16], bit: u8) {
    if let Some(byte) = labels.get_mut(usize::from(bit / 8)) {
        *byte |= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let names = LabelNames::parse(
            "# comment\n1\teth0-out # more\n0 eth0-in\nbad\n128 none\n127 last\n0 again\n 2  guest wifi \n\
             0x10 hex\n011 octal\n3 my_label\n4\n",
        );
        assert_eq!(["guest wifi", "hex", "octal"].map(|name| names.bit(name)), [2, 16, 9].map(Some));
        let unknown = ["none", "again", "comment", "eth0-out", "my_label", "guest"];
        assert_eq!(unknown.map(|name| names.bit(name)), [None; 6]);
        let mut labels = [0; 16];
        for bit in [127, 0, 5] {
            set(&mut labels, bit);
            assert!(is_set(&labels, bit));
        }
        assert_eq!(names.of(&labels).collect::<Vec<_>>(), ["eth0-in", "last"]);
    }
}
