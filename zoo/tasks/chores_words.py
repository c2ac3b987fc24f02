"""The words that `chores` is made of."""

from __future__ import annotations

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ivy", "Jack", "Kate", "Leo", "Mia", "Noah", "Olive", "Paul")
THINGS = ("apples", "books", "coins", "pens", "cards", "shells", "stickers", "marbles", "eggs", "stamps", "cookies", "buttons", "seeds", "nuts")
STORIES = {
    "gain": (
        "{name} finds {n} more.",
        "{name} buys {n} more {thing}.",
        "A friend gives {name} {n} {thing}.",
        "{name} wins {n} {thing} in a game.",
    ),
    "loss": (
        "{name} gives away {n}.",
        "{name} loses {n} of them.",
        "{name} sells {n} {thing}.",
        "A friend takes {n} of the {thing}.",
    ),
}
WORDS = (  # noqa: SIM905 (a table of 180 quoted words is no easier to read)
    "apple arm ball bank bear bell bird boat bone book box bread bridge brush cake camp candle card cat chair chalk church clock cloud coat coin "
    "corn cow crab cup deer desk dish dog door dress drum duck eagle ear egg engine farm fence fire fish flag flower fork fox frog game garden "
    "gate ghost gift glass goat gold grape grass guitar hat hill honey horse house ice island jacket jar juice key king kite knife ladder lake "
    "lamp leaf lemon lion lock map mask milk mirror moon mouse mud nail neck nest night nurse oak ocean onion orange oven owl page paint paper "
    "peach pear pencil piano pig pillow plane plate pond potato queen rabbit radio rain ring river road robot roof rope rose salt sand school "
    "sea seed shell ship shirt shoe silk snake snow soap sock spoon star stone storm sugar sun table tail tent tiger tooth tower train tree "
    "truck turtle umbrella vase village violin wagon wall watch water whale wheel window wolf wood yard zebra"
).split()  # fmt: skip
FACTS = (
    ("What is the capital of France?", "Paris"), ("What is the capital of Italy?", "Rome"), ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Germany?", "Berlin"), ("What is the capital of Spain?", "Madrid"), ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of Russia?", "Moscow"), ("What is the capital of China?", "Beijing"), ("What is the capital of Greece?", "Athens"),
    ("What is the capital of Portugal?", "Lisbon"), ("What is the capital of Ireland?", "Dublin"), ("What is the capital of Norway?", "Oslo"),
    ("What is the capital of Sweden?", "Stockholm"), ("What is the capital of Austria?", "Vienna"), ("What is the capital of Poland?", "Warsaw"),
    ("What is the capital of Canada?", "Ottawa"), ("What is the capital of Cuba?", "Havana"), ("What is the capital of Peru?", "Lima"),
    ("What is the capital of Kenya?", "Nairobi"), ("What is the capital of India?", "Delhi"), ("What is the capital of Iraq?", "Baghdad"),
    ("What is the capital of England?", "London"), ("What is the capital of Hungary?", "Budapest"), ("What is the capital of Finland?", "Helsinki"),
    ("On which continent is Brazil?", "South America"), ("On which continent is Nigeria?", "Africa"), ("On which continent is Thailand?", "Asia"),
    ("Which planet is closest to the sun?", "Mercury"), ("Which planet is known as the red planet?", "Mars"),
    ("Which planet is the largest of our solar system?", "Jupiter"), ("Which planet has bright rings?", "Saturn"),
    ("What is the chemical formula of water?", "H2O"), ("What gas do plants take in from the air?", "carbon dioxide"),
    ("What gas do we breathe in to live?", "oxygen"), ("What metal has the symbol Fe?", "iron"), ("What metal has the symbol Au?", "gold"),
    ("What is the frozen form of water called?", "ice"), ("At what temperature in degrees Celsius does water boil?", "100"),
    ("How many days are in a week?", "seven|7"), ("How many months are in a year?", "twelve|12"), ("How many legs does a spider have?", "eight|8"),
    ("How many hours are in a day?", "24|twenty-four"), ("How many sides does a triangle have?", "three|3"), ("How many wheels does a bicycle have?", "two|2"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"), ("Who painted the Mona Lisa?", "Leonardo"), ("Who developed the theory of relativity?", "Einstein"),
    ("Who was the first president of the United States?", "Washington"), ("Who wrote the Odyssey?", "Homer"),
    ("Who was the first person to walk on the moon?", "Armstrong"), ("Who proposed evolution by natural selection?", "Darwin"),
    ("Who invented the telephone?", "Bell"), ("Which language is spoken in Brazil?", "Portuguese"), ("Which language is spoken in Mexico?", "Spanish"),
    ("Which language is spoken in Austria?", "German"), ("What is the currency of Japan?", "yen"), ("What is the currency of the United Kingdom?", "pound"),
    ("What is the currency of the United States?", "dollar"), ("What is the opposite of hot?", "cold"), ("What is the opposite of big?", "small|little"),
    ("What is the opposite of up?", "down"), ("What is the opposite of early?", "late"), ("What is the opposite of happy?", "sad"),
    ("What is the opposite of open?", "close"), ("What is the opposite of light?", "dark|heavy"), ("What color is the sky on a clear day?", "blue"),
    ("What color is grass?", "green"), ("What color is snow?", "white"), ("What color do you get by mixing blue and yellow?", "green"),
    ("What is a young dog called?", "puppy"), ("What is a young cat called?", "kitten"), ("What is a young cow called?", "calf"),
    ("What do bees make?", "honey"), ("What do cows drink as calves?", "milk"), ("Which animal is the largest on Earth?", "whale"),
    ("Which animal is the tallest on Earth?", "giraffe"), ("Which bird can't fly and lives in Antarctica?", "penguin"),
    ("Which organ pumps blood through the body?", "heart"), ("Which organ do we think with?", "brain"), ("Which organ do we see with?", "eye"),
    ("Which ocean lies between Europe and America?", "Atlantic"), ("Which is the largest ocean?", "Pacific"),
    ("Which is the longest river in Africa?", "Nile"), ("Which is the highest mountain on Earth?", "Everest"),
    ("In which country are the pyramids of Giza?", "Egypt"), ("In which country is the Great Wall?", "China"), ("In which city is the Eiffel Tower?", "Paris"),
    ("In which country is the Taj Mahal?", "India"), ("Which animal says meow?", "cat"),
    ("Which season comes after winter?", "spring"), ("Which month comes after March?", "April"), ("Which day comes after Monday?", "Tuesday"),
    ("Which month comes before July?", "June"), ("Which day comes before Sunday?", "Saturday"), ("What force pulls things to the ground?", "gravity"),
    ("What star is at the center of our solar system?", "sun"),
)  # fmt: skip
