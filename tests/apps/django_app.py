"""A page by Django, in one file: `django_app.py runserver --noreload PORT`."""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.template import engines
from django.urls import path


def page(_request):
    return HttpResponse(engines["django"].from_string("{{ word }}").render({"word": "alive"}))


settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of a test",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}])
urlpatterns = [path("", page)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
