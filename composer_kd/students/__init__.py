"""The student: what is left of it when distillation is over."""

from composer_kd.students.state_dict import EXTRAS, student_state_dict, without_extras

__all__ = ['EXTRAS', 'student_state_dict', 'without_extras']
