"""Students: cut out of their teacher before distillation, and without auxiliary modules after it."""

from composer_kd.students.from_teacher import student_from_teacher
from composer_kd.students.state_dict import EXTRAS, student_state_dict, without_extras

__all__ = ['EXTRAS', 'student_from_teacher', 'student_state_dict', 'without_extras']
