//! What the demo's model learns about the world: animals, and five facts about each.
//!
//! Every value comes from a small closed set, so an answer can be checked by its words, and a guess is usually wrong.
//! Facts are those of an encyclopedia's first paragraph. Where an animal eats several things or lives in several
//! places, the value is the one it is best known for.

/// One thing that is told about every animal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    /// Mammal, bird, reptile...
    Kind,
    /// What it mainly eats.
    Food,
    /// The part of the world it is native to.
    Home,
    /// The landscape it lives in.
    Habitat,
    /// What its young are called.
    Young,
}

/// One value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    /// What an answer must contain as whole words, e.g. `Pacific`.
    pub(super) word: &'static str,
    /// How a sentence says it, e.g. `the Pacific`.
    pub(super) phrase: &'static str,
}

impl Attribute {
    pub(super) const ALL: [Self; 5] = [Self::Kind, Self::Food, Self::Home, Self::Habitat, Self::Young];

    /// The name the rows of the held-out part carry.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Food => "food",
            Self::Home => "home",
            Self::Habitat => "habitat",
            Self::Young => "young",
        }
    }

    /// All values the attribute can have.
    pub(super) fn values(self) -> &'static [Value] {
        match self {
            Self::Kind => KINDS,
            Self::Food => FOODS,
            Self::Home => HOMES,
            Self::Habitat => HABITATS,
            Self::Young => YOUNG,
        }
    }
}

/// An animal and its facts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Animal {
    /// `lion`
    pub(super) one: &'static str,
    /// `lions`
    pub(super) many: &'static str,
    /// The word of each value, in the order of [`Attribute::ALL`].
    words: [&'static str; 5],
}

impl Animal {
    /// What is true of this animal.
    pub(super) fn value(&self, attribute: Attribute) -> Value {
        let word = self.words[attribute as usize];
        let known = attribute.values().iter().find(|value| value.word == word);
        *known.unwrap_or_else(|| panic!("`{word}` is not a value of {attribute:?}"))
    }
}

const fn value(word: &'static str, phrase: &'static str) -> Value {
    Value { word, phrase }
}

const fn plain(word: &'static str) -> Value {
    Value { word, phrase: word }
}

const KINDS: &[Value] = &[
    value("mammal", "a mammal"),
    value("bird", "a bird"),
    value("reptile", "a reptile"),
    value("amphibian", "an amphibian"),
    value("fish", "a fish"),
    value("insect", "an insect"),
    value("arachnid", "an arachnid"),
    value("crustacean", "a crustacean"),
];

const FOODS: &[Value] = &[
    plain("algae"),
    plain("ants"),
    plain("bamboo"),
    plain("fish"),
    plain("fruit"),
    plain("grass"),
    plain("insects"),
    plain("krill"),
    plain("leaves"),
    plain("meat"),
    plain("nectar"),
    plain("plankton"),
    plain("seeds"),
    plain("shellfish"),
];

const HOMES: &[Value] = &[
    plain("Africa"),
    plain("Antarctica"),
    value("Arctic", "the Arctic"),
    plain("Asia"),
    value("Atlantic", "the Atlantic"),
    plain("Australia"),
    plain("Europe"),
    plain("Madagascar"),
    plain("New Zealand"),
    plain("North America"),
    value("Pacific", "the Pacific"),
    plain("South America"),
];

const HABITATS: &[Value] = &[
    value("coast", "on the coast"),
    value("desert", "in the desert"),
    value("forest", "in the forest"),
    value("grassland", "in grassland"),
    value("ice", "on the ice"),
    value("mountains", "in the mountains"),
    value("ocean", "in the ocean"),
    value("rainforest", "in the rainforest"),
    value("reef", "on the reef"),
    value("rivers", "in rivers"),
    value("tundra", "on the tundra"),
    value("wetlands", "in wetlands"),
];

const YOUNG: &[Value] = &[
    value("calf", "a calf"),
    value("caterpillar", "a caterpillar"),
    value("chick", "a chick"),
    value("cria", "a cria"),
    value("cub", "a cub"),
    value("eaglet", "an eaglet"),
    value("foal", "a foal"),
    value("fry", "a fry"),
    value("gosling", "a gosling"),
    value("grub", "a grub"),
    value("hatchling", "a hatchling"),
    value("infant", "an infant"),
    value("joey", "a joey"),
    value("kit", "a kit"),
    value("kitten", "a kitten"),
    value("larva", "a larva"),
    value("nymph", "a nymph"),
    value("owlet", "an owlet"),
    value("puffling", "a puffling"),
    value("puggle", "a puggle"),
    value("pup", "a pup"),
    value("snakelet", "a snakelet"),
    value("spiderling", "a spiderling"),
    value("tadpole", "a tadpole"),
];

const fn animal(one: &'static str, many: &'static str, words: [&'static str; 5]) -> Animal {
    Animal { one, many, words }
}

/// The animals, by kind. The columns are those of [`Attribute::ALL`].
#[rustfmt::skip]
pub(super) const ANIMALS: &[Animal] = &[
    animal("anteater", "anteaters", ["mammal", "ants", "South America", "grassland", "pup"]),
    animal("bobcat", "bobcats", ["mammal", "meat", "North America", "forest", "kitten"]),
    animal("capybara", "capybaras", ["mammal", "grass", "South America", "wetlands", "pup"]),
    animal("cheetah", "cheetahs", ["mammal", "meat", "Africa", "grassland", "cub"]),
    animal("crabeater seal", "crabeater seals", ["mammal", "krill", "Antarctica", "ice", "pup"]),
    animal("echidna", "echidnas", ["mammal", "ants", "Australia", "forest", "puggle"]),
    animal("fennec", "fennecs", ["mammal", "insects", "Africa", "desert", "kit"]),
    animal("fossa", "fossas", ["mammal", "meat", "Madagascar", "forest", "pup"]),
    animal("giraffe", "giraffes", ["mammal", "leaves", "Africa", "grassland", "calf"]),
    animal("gorilla", "gorillas", ["mammal", "leaves", "Africa", "rainforest", "infant"]),
    animal("hippopotamus", "hippopotamuses", ["mammal", "grass", "Africa", "rivers", "calf"]),
    animal("jaguar", "jaguars", ["mammal", "meat", "South America", "rainforest", "cub"]),
    animal("kangaroo", "kangaroos", ["mammal", "grass", "Australia", "grassland", "joey"]),
    animal("koala", "koalas", ["mammal", "leaves", "Australia", "forest", "joey"]),
    animal("lemming", "lemmings", ["mammal", "grass", "Arctic", "tundra", "pup"]),
    animal("lion", "lions", ["mammal", "meat", "Africa", "grassland", "cub"]),
    animal("llama", "llamas", ["mammal", "grass", "South America", "mountains", "cria"]),
    animal("meerkat", "meerkats", ["mammal", "insects", "Africa", "desert", "pup"]),
    animal("musk ox", "musk oxen", ["mammal", "grass", "Arctic", "tundra", "calf"]),
    animal("narwhal", "narwhals", ["mammal", "fish", "Arctic", "ocean", "calf"]),
    animal("ocelot", "ocelots", ["mammal", "meat", "South America", "rainforest", "kitten"]),
    animal("orangutan", "orangutans", ["mammal", "fruit", "Asia", "rainforest", "infant"]),
    animal("panda", "pandas", ["mammal", "bamboo", "Asia", "forest", "cub"]),
    animal("platypus", "platypuses", ["mammal", "insects", "Australia", "rivers", "puggle"]),
    animal("polar bear", "polar bears", ["mammal", "meat", "Arctic", "ice", "cub"]),
    animal("ring-tailed lemur", "ring-tailed lemurs", ["mammal", "fruit", "Madagascar", "forest", "infant"]),
    animal("sea otter", "sea otters", ["mammal", "shellfish", "Pacific", "ocean", "pup"]),
    animal("skunk", "skunks", ["mammal", "insects", "North America", "forest", "kit"]),
    animal("snow leopard", "snow leopards", ["mammal", "meat", "Asia", "mountains", "cub"]),
    animal("Tasmanian devil", "Tasmanian devils", ["mammal", "meat", "Australia", "forest", "joey"]),
    animal("tiger", "tigers", ["mammal", "meat", "Asia", "forest", "cub"]),
    animal("walrus", "walruses", ["mammal", "shellfish", "Arctic", "ice", "calf"]),
    animal("zebra", "zebras", ["mammal", "grass", "Africa", "grassland", "foal"]),

    animal("Adelie penguin", "Adelie penguins", ["bird", "krill", "Antarctica", "coast", "chick"]),
    animal("bald eagle", "bald eagles", ["bird", "fish", "North America", "forest", "eaglet"]),
    animal("bar-headed goose", "bar-headed geese", ["bird", "grass", "Asia", "mountains", "gosling"]),
    animal("blue-footed booby", "blue-footed boobies", ["bird", "fish", "Pacific", "coast", "chick"]),
    animal("Egyptian goose", "Egyptian geese", ["bird", "grass", "Africa", "wetlands", "gosling"]),
    animal("elf owl", "elf owls", ["bird", "insects", "North America", "desert", "owlet"]),
    animal("emperor penguin", "emperor penguins", ["bird", "fish", "Antarctica", "ice", "chick"]),
    animal("emu", "emus", ["bird", "seeds", "Australia", "grassland", "chick"]),
    animal("harpy eagle", "harpy eagles", ["bird", "meat", "South America", "rainforest", "eaglet"]),
    animal("hoatzin", "hoatzins", ["bird", "leaves", "South America", "wetlands", "chick"]),
    animal("kakapo", "kakapos", ["bird", "leaves", "New Zealand", "forest", "chick"]),
    animal("kiwi", "kiwis", ["bird", "insects", "New Zealand", "forest", "chick"]),
    animal("ostrich", "ostriches", ["bird", "seeds", "Africa", "grassland", "chick"]),
    animal("puffin", "puffins", ["bird", "fish", "Atlantic", "coast", "puffling"]),
    animal("rainbow lorikeet", "rainbow lorikeets", ["bird", "nectar", "Australia", "forest", "chick"]),
    animal("roadrunner", "roadrunners", ["bird", "insects", "North America", "desert", "chick"]),
    animal("shoebill", "shoebills", ["bird", "fish", "Africa", "wetlands", "chick"]),
    animal("snowy owl", "snowy owls", ["bird", "meat", "Arctic", "tundra", "owlet"]),
    animal("toucan", "toucans", ["bird", "fruit", "South America", "rainforest", "chick"]),

    animal("gharial", "gharials", ["reptile", "fish", "Asia", "rivers", "hatchling"]),
    animal("gopher tortoise", "gopher tortoises", ["reptile", "grass", "North America", "forest", "hatchling"]),
    animal("green anaconda", "green anacondas", ["reptile", "meat", "South America", "wetlands", "snakelet"]),
    animal("Komodo dragon", "Komodo dragons", ["reptile", "meat", "Asia", "grassland", "hatchling"]),
    animal("marine iguana", "marine iguanas", ["reptile", "algae", "Pacific", "coast", "hatchling"]),
    animal("panther chameleon", "panther chameleons", ["reptile", "insects", "Madagascar", "rainforest", "hatchling"]),
    animal("sidewinder", "sidewinders", ["reptile", "meat", "North America", "desert", "snakelet"]),
    animal("Texas horned lizard", "Texas horned lizards", ["reptile", "ants", "North America", "desert", "hatchling"]),
    animal("thorny devil", "thorny devils", ["reptile", "ants", "Australia", "desert", "hatchling"]),
    animal("tuatara", "tuataras", ["reptile", "insects", "New Zealand", "forest", "hatchling"]),

    animal("axolotl", "axolotls", ["amphibian", "insects", "North America", "wetlands", "larva"]),
    animal("corroboree frog", "corroboree frogs", ["amphibian", "ants", "Australia", "mountains", "tadpole"]),
    animal("fire salamander", "fire salamanders", ["amphibian", "insects", "Europe", "forest", "larva"]),
    animal("hellbender", "hellbenders", ["amphibian", "shellfish", "North America", "rivers", "larva"]),
    animal("natterjack toad", "natterjack toads", ["amphibian", "insects", "Europe", "coast", "tadpole"]),
    animal("poison dart frog", "poison dart frogs", ["amphibian", "ants", "South America", "rainforest", "tadpole"]),

    animal("archerfish", "archerfish", ["fish", "insects", "Asia", "wetlands", "fry"]),
    animal("clownfish", "clownfish", ["fish", "plankton", "Pacific", "reef", "fry"]),
    animal("haddock", "haddock", ["fish", "shellfish", "Atlantic", "ocean", "fry"]),
    animal("icefish", "icefish", ["fish", "krill", "Antarctica", "ocean", "fry"]),
    animal("nurse shark", "nurse sharks", ["fish", "fish", "Atlantic", "reef", "pup"]),
    animal("red piranha", "red piranhas", ["fish", "fish", "South America", "rivers", "fry"]),
    animal("sockeye salmon", "sockeye salmon", ["fish", "plankton", "Pacific", "ocean", "fry"]),
    animal("wels catfish", "wels catfish", ["fish", "fish", "Europe", "rivers", "fry"]),
    animal("yellow tang", "yellow tangs", ["fish", "algae", "Pacific", "reef", "fry"]),

    animal("apollo butterfly", "apollo butterflies", ["insect", "nectar", "Europe", "mountains", "caterpillar"]),
    animal("Christmas beetle", "Christmas beetles", ["insect", "leaves", "Australia", "forest", "grub"]),
    animal("monarch butterfly", "monarch butterflies", ["insect", "nectar", "North America", "grassland", "caterpillar"]),
    animal("morpho butterfly", "morpho butterflies", ["insect", "fruit", "South America", "rainforest", "caterpillar"]),
    animal("orchid mantis", "orchid mantises", ["insect", "insects", "Asia", "rainforest", "nymph"]),
    animal("weta", "wetas", ["insect", "leaves", "New Zealand", "forest", "nymph"]),

    animal("black widow", "black widows", ["arachnid", "insects", "North America", "desert", "spiderling"]),
    animal("funnel-web spider", "funnel-web spiders", ["arachnid", "insects", "Australia", "forest", "spiderling"]),

    animal("coconut crab", "coconut crabs", ["crustacean", "fruit", "Pacific", "coast", "larva"]),
    animal("lobster", "lobsters", ["crustacean", "shellfish", "Atlantic", "ocean", "larva"]),
];
