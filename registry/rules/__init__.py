"""What a policy decides, as pure functions over plain data: no rows, no clock, no I/O.

The same functions judge a dry run, a rehearsal and the real thing.
"""

from registry.rules.candidate import Candidate
from registry.rules.pattern import check_pattern, matches
from registry.rules.rule import Rule, Verdict, check_rules, judge
from registry.rules.template import check_template, expand

__all__ = ["Candidate", "Rule", "Verdict", "check_pattern", "check_rules", "check_template", "expand", "judge", "matches"]
