"""Checks of single rewrites: each one's before and after, cut out of the model, shown to be equal where that is cheap.

``watch.py`` sees every rewrite of a run, ``cut.py`` makes two small models of it, ``exact.py`` evaluates both over a
finite field, ``differential.py`` runs both; ``ledger.py`` counts what was shown.
"""
