//! Names of connection labels: `connlabel.conf`.

/// Which of the 128 labels have which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelNames(Vec<(u8, String)>);

impl LabelNames {
    /// Reads lines of a number and a name. What else there is, is a comment: lines that begin with `#`,
    /// or have no number below 128, and what follows the name.
    pub fn parse(text: &str) -> Self {
        let mut names = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let number = words.next().and_then(|number| number.parse().ok()).filter(|bit| *bit < 128);
            if let (Some(bit), Some(name)) = (number, words.next()) {
                // The first name of a label and the first label of a name count.
                if !names.iter().any(|(other, other_name)| *other == bit || other_name == name) {
                    names.push((bit, name.to_owned()));
                }
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
        let names =
            LabelNames::parse("# comment\n1\teth0-out # more\n0 eth0-in\nbad\n128 none\n127 last\n0 again");
        assert_eq!(names.bit("eth0-out"), Some(1));
        assert_eq!(["none", "again", "comment"].map(|name| names.bit(name)), [None; 3]);
        let mut labels = [0; 16];
        for bit in [127, 0, 5] {
            set(&mut labels, bit);
            assert!(is_set(&labels, bit));
        }
        assert_eq!(names.of(&labels).collect::<Vec<_>>(), ["eth0-in", "last"]);
    }
}
