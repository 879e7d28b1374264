"""The student after distillation: its own weights, without auxiliary modules."""

from composer_kd.students.state_dict import EXTRAS, student_state_dict, without_extras

__all__ = ['EXTRAS', 'student_state_dict', 'without_extras']
