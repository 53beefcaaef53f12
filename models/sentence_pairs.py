"""Sentence pairs with graded similarity, written for planish in the style of STS (Cer et al., SemEval 2017).

Grades: 5 the same meaning, 4 the same but for details, 3 roughly the same but something important differs,
2 not the same but sharing details, 1 only the same topic, 0 unrelated. Neighbours differ in grade, so that
any run of consecutive pairs spans the scale.
"""

from __future__ import annotations

PAIRS: tuple[tuple[str, str, float], ...] = (
    ("A man is playing a guitar.", "A man plays the guitar.", 5.0),
    ("A woman is slicing an onion.", "The stock market fell sharply on Monday.", 0.0),
    ("Two dogs are running through a field.", "Two dogs run across the grass after a ball.", 4.0),
    ("The train to Berlin leaves at nine.", "The bus to Munich departs in the evening.", 2.0),
    ("She bought a new laptop for work.", "She bought a used laptop for her studies.", 3.0),
    ("A child is riding a bicycle.", "A mechanic repairs a bicycle.", 1.5),
    ("The company reported higher profits this quarter.", "Earnings of the firm rose in the last three months.", 4.8),
    ("He forgot his umbrella at home.", "Plants need sunlight to grow.", 0.0),
    ("It is raining heavily outside.", "There is a downpour outside.", 4.8),
    ("A cat sleeps on the sofa.", "A cat is chasing a mouse in the garden.", 1.8),
    ("The doctor prescribed an antibiotic.", "The physician gave the patient antibiotics.", 4.4),
    ("The chef is cooking pasta.", "A farmer is ploughing his land with a tractor.", 0.4),
    ("Scientists discovered a new species of frog.", "Researchers found a previously unknown frog in Peru.", 4.0),
    ("The football match ended in a draw.", "The tennis final was won in straight sets.", 1.2),
    ("She teaches mathematics at a high school.", "She is a high school teacher of physics.", 3.2),
    ("How do I reset my password?", "What are the steps to change a forgotten password?", 4.6),
    ("The river flooded several villages.", "A recipe for apple pie needs cinnamon.", 0.0),
    ("A plane is taking off.", "An airplane takes off from the runway.", 4.8),
    ("The museum is closed on Mondays.", "The museum opens at ten on Sundays.", 2.4),
    ("People are dancing at a wedding.", "Guests eat cake at a birthday party.", 1.5),
    ("The government raised taxes on fuel.", "The government cut taxes on fuel.", 3.0),
    ("He is drinking a cup of coffee.", "He is sipping a cup of coffee.", 5.0),
    ("The old bridge was demolished yesterday.", "My favourite colour is turquoise.", 0.0),
    ("A girl is brushing her hair.", "A girl is styling her hair.", 4.0),
    ("The server crashed because of a memory leak.", "The waiter dropped a tray of glasses.", 0.4),
    ("An earthquake of magnitude six struck Japan.", "A strong earthquake hit the Japanese coast.", 4.2),
    ("The children built a snowman.", "The children built a sandcastle on the beach.", 2.5),
    ("She speaks fluent Spanish and French.", "She can read a little Portuguese.", 2.0),
    ("Which restaurants near here are open now?", "Find a place to eat nearby that is open.", 4.6),
    ("The painting was sold for two million dollars.", "The sculpture was stolen from the gallery.", 1.4),
    ("The recipe calls for two eggs and butter.", "You need butter and two eggs for this dish.", 4.6),
    ("The library has a large collection of maps.", "A volcano erupted in Iceland last night.", 0.0),
    ("The phone's battery lasts two days.", "The battery of this phone is empty after a few hours.", 2.6),
    ("A boy kicks a ball.", "A young boy is kicking a soccer ball.", 4.4),
    ("Interest rates will remain unchanged.", "The central bank keeps its rates as they are.", 4.2),
    ("The court rejected the appeal.", "The judge sentenced the man to five years in prison.", 2.0),
    ("Vaccines protect against many diseases.", "Many illnesses can be prevented by vaccination.", 4.8),
    ("A woman is swimming in a lake.", "A man is fishing by the lake.", 1.8),
    ("The new law bans smoking in restaurants.", "Smoking in restaurants is prohibited by the new act.", 5.0),
    ("He plays chess every Sunday.", "The washing machine is broken.", 0.0),
    ("The hotel room was small but clean.", "Our hotel room was tiny and dirty.", 2.8),
    ("The patient recovered quickly after surgery.", "After the operation the patient soon felt well.", 4.7),
    ("An athlete is lifting weights in a gym.", "A runner stretches before a marathon.", 1.5),
    ("The satellite was launched into orbit.", "A rocket carried the satellite into space.", 4.0),
)
"""First sentence, second sentence, grade from 0 to 5."""
